package cli

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestPauseBeginsAfterWork(t *testing.T) {
	const work, none = 2 * pauseStill, pauseStill / 2
	quiet := func(n int) (ticks []uint64) {
		for range n {
			ticks = append(ticks, none)
		}
		return ticks
	}
	for name, c := range map[string]struct {
		ticks []uint64 // what is allocated in each
		want  bool     // after the last, and never before
	}{
		"work":                       {[]uint64{work, work}, false},
		"a moment without":           {quiet(1), false},
		"work, and a moment without": {[]uint64{none, work, work, none}, true},
		"long nothing":               {quiet(pauseLong), true},
		"not yet long nothing":       {quiet(pauseLong - 1), false},
	} {
		s := stillness{allocated: 1000}
		allocated := s.allocated
		for i, n := range c.ticks {
			allocated += n
			if got, want := s.paused(allocated), c.want && i == len(c.ticks)-1; got != want {
				t.Errorf("%s: tick %d: got %v", name, i, got)
			}
		}
	}
}

// The room is between what is alive and the collection's goal.
func TestCollectionIsDueBeforeTheRuntimes(t *testing.T) {
	for objects, want := range map[uint64]bool{50: false, 60: false, 89: false, 90: true, 94: true, 95: false, 110: false} {
		if got := (heapRoomUse{live: 60, objects: objects, goal: 110}).due(); got != want {
			t.Errorf("%d of 60 to 110: got %v", objects, got)
		}
	}
	if (heapRoomUse{live: 60, objects: 70, goal: 60}).due() {
		t.Error("there is no room that could be used")
	}
	if u := readHeapRoom(); u.objects == 0 || u.goal == 0 {
		t.Errorf("the runtime tells %+v", u)
	}
}

// A process that does nothing is in a pause, soon; the end comes before it.
func TestPauseComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		if !pauseComes(t.Context()) {
			t.Error("no pause, and nothing was done")
		}
		if took, most := time.Since(began), pauseTick*pauseTicks; took > most {
			t.Errorf("it took %v, more than %v", took, most)
		}
		ended, end := context.WithCancel(t.Context())
		end()
		if pauseComes(ended) {
			t.Error("a pause after the end")
		}
	})
}
