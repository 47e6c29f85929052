package probe

import "time"

// Timing is a probe's numbers, as corev1.Probe has them.
type Timing struct {
	InitialDelay, Period, Timeout time.Duration
	// Successes and Failures are how many answers in a row change the verdict.
	Successes, Failures int
}

// State is a verdict and the answers that may change it.
type State struct {
	timing Timing
	good   bool
	last   bool
	row    int // how many answers like the last one came in a row
}

// NewState begins with a verdict: false for a guest that starts, what was known
// for one that was adopted.
func NewState(t Timing, good bool) *State { return &State{timing: t, good: good} }

// Good is the verdict.
func (s *State) Good() bool { return s.good }

// Observe takes one answer and reports whether the verdict changed.
func (s *State) Observe(ok bool) (changed bool) {
	if s.row == 0 || s.last != ok {
		s.last, s.row = ok, 0
	}
	s.row++
	need := s.timing.Failures
	if ok {
		need = s.timing.Successes
	}
	if s.row < need || s.good == ok {
		return false
	}
	s.good = ok
	return true
}

// First is how long to wait before the first check of a guest that started ago.
func (t Timing) First(ago time.Duration) time.Duration { return max(0, t.InitialDelay-ago) }
