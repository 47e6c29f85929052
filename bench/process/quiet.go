package process

import (
	"context"
	"fmt"
	"time"
)

const (
	quietLooks    = 3  // one after the other: work may wait for its time
	quietPart     = 10 // of a processor's time is what idle servers use, and some noise
	quietPatience = 5 * time.Minute
)

// Settle waits until the processes have done what a load left them to do: they are
// quiet for some looks, each so long. It tells how long it took.
func Settle(ctx context.Context, look time.Duration, processes ...*Process) (time.Duration, error) {
	begin := time.Now()
	before, err := TimesOf(processes...)
	if err != nil {
		return 0, err
	}
	for quiet := 0; quiet < quietLooks; quiet++ {
		if time.Since(begin) > quietPatience {
			return 0, fmt.Errorf("the server is still busy %v after the load", quietPatience)
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(look):
		}
		now, err := TimesOf(processes...)
		if err != nil {
			return 0, err
		}
		if now-before >= look/quietPart {
			quiet = -1
		}
		before = now
	}
	return max(0, time.Since(begin)-quietLooks*look), nil
}

// TimesOf is what processes have used of processors together.
func TimesOf(processes ...*Process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range processes {
		t, err := p.Times()
		if err != nil {
			return 0, err
		}
		sum += t.Total()
	}
	return sum, nil
}
