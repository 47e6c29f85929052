package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"portico.dev/portico/bench/apiserver"
	"portico.dev/portico/bench/figure"
)

// changePause is between two changes that are timed: the peer may write 20 times a second,
// and one that must wait for that would not be alone.
const changePause = 60 * time.Millisecond

// profileSeconds is about as long as each phase takes.
const profileSeconds = 3

type starter func(ctx context.Context, dir string) (*apiserver.Server, error)

// run measures both servers in turn, so that what else the machine does meets both.
func (p *plan) run(ctx context.Context) error {
	dir, remove, err := p.Folder()
	if err != nil {
		return err
	}
	defer remove()
	ours, peers := figure.Rounds{}, figure.Rounds{}
	for round := range p.Rounds {
		if err := p.measure(ctx, filepath.Join(dir, fmt.Sprint("portico-", round)), p.startPortico, ours); err != nil {
			return fmt.Errorf("measure Portico: %w", err)
		}
		if p.peer.Etcd != "" {
			if err := p.measure(ctx, filepath.Join(dir, fmt.Sprint("peer-", round)), p.startPeer, peers); err != nil {
				return fmt.Errorf("measure the peer: %w", err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, p.Rounds)
	}
	return p.report(ours, peers)
}

func (p *plan) startPortico(ctx context.Context, dir string) (*apiserver.Server, error) {
	var more []string
	if p.profile != "" {
		more = []string{"--profiling"}
	}
	return apiserver.StartPortico(ctx, dir, "", p.Portico, more...)
}

func (p *plan) startPeer(ctx context.Context, dir string) (*apiserver.Server, error) {
	return p.peer.Start(ctx, dir, "")
}

// measure starts a server on an empty store, measures it, and removes all of it.
func (p *plan) measure(ctx context.Context, dir string, start starter, into figure.Rounds) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer s.Stop()
	l, err := newLoad(ctx, s)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.makeNode(ctx); err != nil {
		return err
	}
	w, err := newWatcher(ctx, s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer w.client.Close() // ends its reader
	defer cancel(nil)
	group.Go(w.listen)
	group.Go(func() {
		if err := alive(ctx, s); err != nil {
			cancel(err)
		}
	})
	if err := l.makePods(ctx, p.services); err != nil {
		return fmt.Errorf("make pods: %w", err)
	}
	return p.phases(ctx, l, w, into)
}

// phases are the measurements, each from a server with nothing to do.
func (p *plan) phases(ctx context.Context, l *load, w *watcher, into figure.Rounds) error {
	if err := p.phase(ctx, l, p.services, "first_slices", into, func() error {
		took, err := p.first(ctx, l, w)
		into.Add(took.Seconds(), "first_slices", p.services, "seconds")
		return err
	}); err != nil {
		return fmt.Errorf("first slices: %w", err)
	}
	if err := p.phase(ctx, l, p.changes, "slice", into, func() error {
		all, err := p.oneByOne(ctx, l, w)
		if err == nil {
			into.Add(figure.Milliseconds(figure.Percentile(all, 50)), "slice_p50_ms")
			into.Add(figure.Milliseconds(figure.Percentile(all, 99)), "slice_p99_ms")
		}
		return err
	}); err != nil {
		return fmt.Errorf("slices of single changes: %w", err)
	}
	if err := p.phase(ctx, l, p.burst, "slice_burst", into, func() error {
		took, err := p.atOnce(ctx, l, w)
		into.Add(took.Seconds(), "slice_burst", p.burst, "seconds")
		return err
	}); err != nil {
		return fmt.Errorf("slices of a burst: %w", err)
	}
	return nil
}

// phase notes what the server uses of processors for each of n, and how often it writes,
// with all that it does afterwards.
func (p *plan) phase(ctx context.Context, l *load, n int, name string, into figure.Rounds, measure func() error) error {
	s := l.server
	if _, err := s.Settle(ctx, p.look); err != nil {
		return err
	}
	profiled, err := p.startProfile(ctx, s, name)
	if err != nil {
		return err
	}
	before, err := s.ProcessorTime()
	if err != nil {
		return err
	}
	from, err := l.revision()
	if err != nil {
		return err
	}
	if err := measure(); err != nil {
		return err
	}
	if err := profiled(); err != nil {
		return err
	}
	if _, err := s.Settle(ctx, p.look); err != nil {
		return err
	}
	after, err := s.ProcessorTime()
	if err != nil {
		return err
	}
	to, err := l.revision()
	into.Add(float64((after-before).Microseconds())/float64(n), name, "cpu_us")
	into.Add(float64(to-from)/float64(n), name, "writes")
	return err
}

// startProfile takes a profile of our server's processors; the returned function waits for
// its end.
func (p *plan) startProfile(ctx context.Context, s *apiserver.Server, name string) (func() error, error) {
	if p.profile == "" {
		return func() error { return nil }, nil
	}
	return s.Profile(ctx, profileSeconds, filepath.Join(p.profile, name+".pprof"))
}

// first makes the Services and gives how long after the first request the last slice
// has come.
func (p *plan) first(ctx context.Context, l *load, w *watcher) (time.Duration, error) {
	full := w.expect(numbers(p.services), true)
	begin := time.Now()
	if err := l.each(ctx, p.services, service); err != nil {
		return 0, err
	}
	at, err := w.await(ctx, full)
	return at.Sub(begin), err
}

// oneByOne gives how long after its request each change has come: pods lose their
// readiness, then get it back.
func (p *plan) oneByOne(ctx context.Context, l *load, w *watcher) (all []time.Duration, err error) {
	for _, ready := range []bool{false, true} {
		for n := range p.changes / 2 {
			full := w.expect([]int{n}, ready)
			begin := time.Now()
			if err := l.send(0, readiness(n, ready)); err != nil {
				return nil, err
			}
			at, err := w.await(ctx, full)
			if err != nil {
				return nil, err
			}
			all = append(all, at.Sub(begin))
			time.Sleep(changePause)
		}
	}
	return all, nil
}

// atOnce gives how long after the first request the last of many lost pods has come.
func (p *plan) atOnce(ctx context.Context, l *load, w *watcher) (time.Duration, error) {
	full := w.expect(numbers(p.burst), false)
	begin := time.Now()
	if err := l.each(ctx, p.burst, func(n int) request { return readiness(n, false) }); err != nil {
		return 0, err
	}
	at, err := w.await(ctx, full)
	return at.Sub(begin), err
}

func numbers(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}
