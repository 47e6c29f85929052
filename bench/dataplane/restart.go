package main

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"portico.dev/portico/bench/apiclient"
)

// connectPause leaves the processors to the agent that starts.
const connectPause = 500 * time.Microsecond

// restart kills each contender and starts it again, some times, while clients open
// connections through all Services. Each restart is over when a change that was made
// while nobody ran is in the kernel.
func (p *plan) restart(ctx context.Context, w *world, size int, into *results) error {
	for _, c := range p.contenders() {
		if size > c.most {
			continue
		}
		r, err := w.run(ctx, c, size)
		if err != nil {
			return err
		}
		tally := r.site.connect(serviceTargets(size), p.clients)
		var took []time.Duration
		for len(took) < p.restarts && err == nil {
			var d time.Duration
			r, d, err = w.restartOnce(ctx, r)
			took = append(took, d)
		}
		opened, failed, first := tally()
		r.Kill()
		if err != nil {
			return fmt.Errorf("restart %s: %w", c.name, err)
		}
		into.put(c.prefix+"restart_failed_connections", float64(failed))
		into.put(c.prefix+"restart_connections", float64(opened))
		for _, d := range took {
			into.put(c.prefix+"restart_to_change_ms", float64(d.Milliseconds()))
		}
		if failed > 0 {
			into.note(fmt.Sprintf("%s: the first connection that failed in a restart: %v", c.name, first))
		}
	}
	return nil
}

// restartOnce gives the new process, which the caller kills, and how long after its
// start it had what changed meanwhile in the kernel.
func (w *world) restartOnce(ctx context.Context, r *running) (*running, time.Duration, error) {
	r.Kill()
	var answer bytes.Buffer
	err := w.with(ctx, func(c *apiclient.Client) error { return w.setDoor(c, 1-w.door, &answer) })
	if err != nil {
		return r, 0, err
	}
	came := r.site.doors.expect(doorAddresses[w.door])
	next, err := w.start(ctx, r.contender)
	if err != nil {
		return r, 0, err
	}
	stop := r.site.knock()
	defer stop()
	var took time.Duration
	err = r.site.await(ctx, came, func(t time.Time) { took = t.Sub(next.began) })
	return next, took, err
}

// connect has clients open connections until the returned function is called, which says
// how many, how many failed, and why the first did.
func (s *site) connect(to targets, clients int) func() (opened, failed int64, first error) {
	var over atomic.Bool
	var opened, failed atomic.Int64
	var first atomic.Pointer[error]
	var group sync.WaitGroup
	for range clients {
		group.Go(func() {
			_ = s.client.Do(func() error {
				for !over.Load() {
					opened.Add(1)
					if err := exchange(to.any()); err != nil {
						failed.Add(1)
						first.CompareAndSwap(nil, &err)
					}
					pause(connectPause)
				}
				return nil
			})
		})
	}
	return func() (int64, int64, error) {
		over.Store(true)
		group.Wait()
		if err := first.Load(); err != nil {
			return opened.Load(), failed.Load(), *err
		}
		return opened.Load(), 0, nil
	}
}
