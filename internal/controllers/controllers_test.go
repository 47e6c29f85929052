package controllers

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"
	testingclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/leader"
)

// One that fails or panics is started again, later each time; the others go on;
// all have ended when Run returns.
func TestRun(t *testing.T) {
	clk := testingclock.NewFakeClock(time.Unix(1000, 0))
	starts := make(chan time.Time, 10)
	steady := make(chan string, 10)
	n := 0
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Run(ctx, Config{
			Lease:  leader.Config{Leases: fake.NewClientset().CoordinationV1(), Identity: "me"},
			Client: fake.NewClientset(),
			Log:    slog.New(slog.DiscardHandler),
			Clock:  clk,
		}, func(*caches.Shared) []Controller {
			return []Controller{
				{Name: "failing", Run: func(context.Context) error {
					starts <- clk.Now()
					n++
					switch n {
					case 1:
						return errors.New("no")
					case 2:
						panic("oh")
					}
					return nil
				}},
				{Name: "steady", Run: func(ctx context.Context) error {
					steady <- "began"
					<-ctx.Done()
					steady <- "ended"
					return nil
				}},
			}
		})
	}()
	var at []time.Time
	for len(at) < 4 {
		select {
		case s := <-starts:
			at = append(at, s)
		case <-time.After(time.Millisecond):
			if clk.HasWaiters() {
				clk.Step(time.Second)
			}
		case <-t.Context().Done():
		}
	}
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		if got := at[i+1].Sub(at[i]); got != want {
			t.Errorf("pause %d is %v, want %v", i, got, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(steady) != 2 || <-steady != "began" || <-steady != "ended" {
		t.Error("the other one didn't run once, from beginning to end")
	}
}
