package probe

import (
	"context"
	"errors"
	"testing"
	"time"

	clocktesting "k8s.io/utils/clock/testing"
)

// EP-01, EP-03: a guest is ready when it answers by both families, or by the primary
// one alone for long enough.
func TestAllFamilies(t *testing.T) {
	silent := errors.New("silent")
	var v4, v6 error
	clk := clocktesting.NewFakeClock(time.Unix(0, 0))
	fresh := func() Check {
		return AllFamilies(clk, func(context.Context) error { return v4 }, func(context.Context) error { return v6 })
	}
	for _, story := range []struct {
		name  string
		tell  func(say func(want error))
		begin [2]error
	}{
		{"the second family comes later", func(say func(error)) {
			say(silent)
			v6 = nil
			say(nil)
			v6 = silent // once good, the primary decides
			say(nil)
			v4 = silent
			say(silent)
		}, [2]error{nil, silent}},
		{"the second family never comes", func(say func(error)) {
			say(silent)
			clk.Step(familyPatience)
			say(nil)
		}, [2]error{nil, silent}},
		{"patience begins with the primary's answer", func(say func(error)) {
			say(silent)
			clk.Step(familyPatience)
			v4 = nil
			say(silent)
		}, [2]error{silent, silent}},
	} {
		t.Run(story.name, func(t *testing.T) {
			v4, v6 = story.begin[0], story.begin[1]
			check := fresh()
			step := 0
			story.tell(func(want error) {
				step++
				if got := check(t.Context()); !errors.Is(got, want) {
					t.Fatalf("look %d: %v, want %v", step, got, want)
				}
			})
		})
	}
}
