package nodes

import (
	"context"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// attentionTick is how often the controller looks at its own clock.
	attentionTick = time.Second
	// inattentive is how long it may be late before it counts as having been
	// stopped: far above what a busy host delays a goroutine, far below gracePeriod.
	inattentive = 5 * time.Second
)

// attention notices when the controller itself was stopped (a suspended host, a
// stopped process): on one host the node is, too, and its silence meanwhile says
// nothing.
type attention struct {
	mu      sync.Mutex // guards the following
	last    time.Time  // zero: nobody looks
	resumed time.Time  // when the last stop was over
}

// run looks at the clock until ctx ends.
func (a *attention) run(ctx context.Context, c clock.WithTicker) {
	ticker := c.NewTicker(attentionTick)
	defer ticker.Stop()
	a.look(c.Now())
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
			a.look(c.Now())
		}
	}
}

func (a *attention) look(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.last.IsZero() && now.Sub(a.last) > inattentive {
		a.resumed = now
	}
	a.last = now
}

// since gives the time from which on silence counts. It may be asked before the
// goroutine that looks has woken up.
func (a *attention) since(now time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.last.IsZero() && now.Sub(a.last) > inattentive {
		return now
	}
	return a.resumed
}
