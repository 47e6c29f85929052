package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/process"
)

const (
	// tryTimeout is what a Service that works needs a small part of; one that doesn't
	// yet may drop the packet.
	tryTimeout = 20 * time.Millisecond
	// tryPause is how fine the end of programming is seen.
	tryPause = 2 * time.Millisecond
	// samples are tried before all are, so that a start isn't slowed down by clients.
	samples = 64
)

// pace is how doors are tried.
type pace struct {
	timeout, between time.Duration
	patience         time.Duration // for a start, and for a change
}

var native = pace{timeout: tryTimeout, between: tryPause, patience: patience}

// programTime is how long it took to program all.
type programTime struct {
	wall time.Duration
	used process.Times // of processors
}

// programmed waits until connections to each of the first size Services succeed, and
// tells when the last of those did that failed before. The contender has just started.
func (r *running) programmed(ctx context.Context, size int) (out programTime, err error) {
	deadline := time.Now().Add(r.contender.pace.patience)
	mark := func() (err error) {
		out.wall = time.Since(r.began)
		out.used, err = r.Times()
		return err
	}
	await := func(i int, first bool) error {
		to := target(clusterIP(i), servicePort)
		for failed := first; ; failed = true {
			err := tryDoor(&to, r.contender.pace.timeout)
			if err == nil {
				if failed {
					return mark()
				}
				return nil
			}
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case r.Over() || time.Now().After(deadline):
				return fmt.Errorf("the Service %d of %d never answers (%w); %s", i, size, err, r.Tail())
			case !waits(err):
				return fmt.Errorf("connect to Service %d: %w", i, err)
			}
			pause(r.contender.pace.between)
		}
	}
	err = r.site.client.Do(func() error {
		step := max(1, size/samples)
		for i := 0; i < size; i += step {
			if err := await(i, i == 0); err != nil {
				return err
			}
		}
		for i := size - 1; i >= 0; i-- {
			if err := await(i, false); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// waits says that a Service isn't programmed yet: nothing knows its address (no route),
// something drops its packets, or something refuses them as it has no backends.
func waits(err error) bool {
	for _, one := range []error{unix.EINPROGRESS, unix.ETIMEDOUT, unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH} {
		if errors.Is(err, one) {
			return true
		}
	}
	return false
}

// program starts each contender on an empty kernel, by turns, some times. The sites of
// the last turn stay, with their rules; the agents end.
func (p *plan) program(ctx context.Context, w *world, size int, into *results) error {
	for round := range p.programRounds {
		for _, c := range p.contenders() {
			if !c.takes(size) {
				continue
			}
			if round > 0 || w.sites[c.name] != nil {
				w.forget(c.name)
			}
			if err := w.settle(ctx); err != nil {
				return err
			}
			r, err := w.start(ctx, c)
			if err != nil {
				return err
			}
			took, err := r.programmed(ctx, size)
			r.Kill()
			if err != nil {
				return fmt.Errorf("start %s with %d Services: %w", c.name, size, err)
			}
			into.put(c.prefix+"program_"+short(size)+"_seconds"+c.suffix, took.wall.Seconds())
			into.put(c.prefix+"program_"+short(size)+"_system_seconds"+c.suffix, took.used.System.Seconds())
			into.put(c.prefix+"program_"+short(size)+"_cpu_seconds"+c.suffix, took.used.Total().Seconds())
		}
	}
	for _, c := range p.contenders() {
		if !c.traced {
			continue
		}
		took, ok, err := w.kernelPart(ctx, c, size)
		if err != nil {
			return fmt.Errorf("trace %s with %d Services: %w", c.name, size, err)
		}
		if ok {
			into.put("program_"+short(size)+"_kernel_seconds_nft", took.Seconds())
		}
	}
	return nil
}

// takes says whether a contender is measured with so many Services.
func (c contender) takes(size int) bool { return size <= c.most && (c.only == 0 || c.only == size) }
