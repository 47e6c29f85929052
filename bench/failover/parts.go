package main

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"time"

	"portico.dev/portico/bench/figure"
	"portico.dev/portico/bench/process"
)

// way is how a node is asked to hand over, and how it comes back.
type way struct {
	name        string
	leave, back func(context.Context, *stage, *node) error
}

var ways = []way{
	{
		"stop",
		func(_ context.Context, _ *stage, n *node) error { n.agent.Stop(); n.agent = nil; return nil },
		func(_ context.Context, s *stage, n *node) error { return s.start(n) },
	},
	{
		"drain",
		func(ctx context.Context, s *stage, n *node) error { return s.cordon(ctx, n, true) },
		func(ctx context.Context, s *stage, n *node) error { return s.cordon(ctx, n, false) },
	},
}

// planned stops the holder's agent as an upgrade does, and cordons its node as a drain
// does, each so often; it counts requests that were lost by it.
func (p *plan) planned(ctx context.Context, s *stage, into *results) error {
	for i := range p.moves {
		for _, w := range ways {
			if w.name == "drain" && !s.drains() {
				continue
			}
			lost, gap, err := s.handOver(ctx, w)
			if err != nil {
				return fmt.Errorf("%s%s %d: %w", s.prefix(), w.name, i+1, err)
			}
			into.add(s.prefix()+"planned_lost_requests", float64(lost))
			into.put(s.prefix()+"planned_gap_ms_"+w.name, figure.Milliseconds(gap))
			into.progress("%s%s %d: %d requests lost", s.prefix(), w.name, i+1, lost)
		}
	}
	return nil
}

func (s *stage) handOver(ctx context.Context, w way) (lost int, gap time.Duration, err error) {
	holder, err := s.settled(ctx)
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := w.leave(ctx, s, holder); err != nil {
		return 0, 0, err
	}
	err = s.until(ctx, fmt.Sprintf("another node has the address after the %s of node %s", w.name, holder.name), func() error {
		if next := s.stream.holder(); next == "" || next == holder.name {
			return fmt.Errorf("%q answers", next)
		}
		return nil
	})
	if err != nil {
		return 0, 0, err
	}
	end := time.Now()
	if err := w.back(ctx, s, holder); err != nil {
		return 0, 0, err
	}
	err = pause(ctx, answerPatience)
	return s.stream.lost(begin, end), s.stream.gap(begin, end), err
}

// pause lets some time go by.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

func (s *stage) cordon(ctx context.Context, n *node, yes bool) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	return s.api.Must("PATCH", nodesPath+"/"+n.name, mergePatch, object{"spec": object{"unschedulable": yes}}.body(), &s.answer)
}

// underLoad keeps every processor busy twice over and counts how often the address of
// each contender moves, while nobody is lost.
func (p *plan) underLoad(ctx context.Context, dir string, all []*stage, into *results) error {
	for _, s := range all {
		if _, err := s.settled(ctx); err != nil {
			return err
		}
	}
	begin := time.Now()
	for i := range 2 * runtime.NumCPU() {
		hog, err := process.Launch(dir, fmt.Sprint("hog", i), "sh", "-c", "while :; do :; done")
		if err != nil {
			return err
		}
		defer hog.Kill()
	}
	if err := pause(ctx, p.load); err != nil {
		return err
	}
	end := time.Now()
	for _, s := range all {
		moves := s.observer.changes(begin)
		into.put(s.prefix()+"false_takeovers", float64(moves))
		into.put(s.prefix()+"false_takeovers_per_hour", float64(moves)/end.Sub(begin).Hours())
		into.put(s.prefix()+"load_gap_ms", figure.Milliseconds(s.stream.gap(begin, end)))
		into.progress("%s%v under load: the address moved %d times", s.prefix(), p.load, moves)
	}
	return nil
}

// makeServices makes so many, each with an address of its own.
func (s *stage) makeServices(ctx context.Context, count int) error {
	if err := s.connect(ctx); err != nil {
		return err
	}
	address := manyRange.Addr()
	for i := range count {
		address = address.Next()
		if err := s.makeService(fmt.Sprintf("many-%04d", i), address, "Cluster"); err != nil {
			return err
		}
	}
	return nil
}

// manyAddresses measures how long it takes until all of a lost node's addresses, of very
// many, were announced by others.
func (p *plan) manyAddresses(ctx context.Context, s *stage, times int, into *results) error {
	for i := range times {
		if _, err := s.settled(ctx); err != nil {
			return err
		}
		var before map[netip.Addr]claim
		err := s.until(ctx, fmt.Sprintf("all of %d addresses are announced", p.services), func() error {
			before = s.observer.owners()
			if len(before) < p.services {
				return fmt.Errorf("%d are", len(before))
			}
			for a, c := range before {
				if time.Since(c.at) < calm {
					return fmt.Errorf("%s: %w", a, errMoving)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		lost := s.nodes[i%len(s.nodes)]
		begin := time.Now()
		if err := kinds[len(kinds)-1].lose(s, lost); err != nil {
			return err
		}
		var last time.Duration
		moved := 0
		err = s.until(ctx, "all addresses of the lost node are announced by others", func() error {
			last, moved = 0, 0
			for a, c := range s.observer.owners() {
				if before[a].mac != lost.mac.String() {
					continue
				}
				if c.mac == lost.mac.String() {
					return fmt.Errorf("%s isn't", a)
				}
				last, moved = max(last, c.at.Sub(begin)), moved+1
			}
			return nil
		})
		if err != nil {
			return err
		}
		into.put(s.prefix()+"all_1000_moved_seconds", last.Seconds())
		into.progress("%sall %d addresses of a lost node, of %d, were elsewhere after %v", s.prefix(), moved, p.services, last.Round(time.Millisecond))
		if err := kinds[len(kinds)-1].back(s, lost); err != nil {
			return err
		}
	}
	return nil
}

// stages makes the contenders' worlds.
func (p *plan) stages(ctx context.Context, dir string) (all []*stage, err error) {
	contenders := []contender{ours{p.portico}}
	if p.speaker != "" {
		contenders = append(contenders, metallb{p.speaker})
	}
	for i, c := range contenders {
		s, err := newStage(ctx, filepath.Join(dir, fmt.Sprint(i)), p.portico, c)
		if err != nil {
			return all, fmt.Errorf("%sstart: %w", c.prefix(), err)
		}
		all = append(all, s)
	}
	return all, nil
}
