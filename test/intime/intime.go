// Package intime is for tests that bound a time: a busy machine may delay one try, what is
// slow delays each.
package intime

import (
	"testing"
	"time"
)

// Within tries up to three times until one takes no longer than most.
func Within(t *testing.T, most time.Duration, try func(n int) (took time.Duration)) {
	t.Helper()
	var all []time.Duration
	for n := range 3 {
		took := try(n)
		if took <= most {
			return
		}
		all = append(all, took)
	}
	t.Errorf("it took %v, want at most %v", all, most)
}
