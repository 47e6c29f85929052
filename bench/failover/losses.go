package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/figure"
)

var (
	errNobody = errors.New("nobody answers steadily")
	errMoving = errors.New("the address moves")
)

// kind is a way to lose a node.
type kind struct {
	name string
	lose func(*stage, *node) error
	back func(*stage, *node) error
}

// kinds begin with those that the kernel of the lost node survives: it goes on to serve
// who knows its hardware address.
var kinds = []kind{
	{
		"kill", func(_ *stage, n *node) error { n.kill(); return nil },
		func(s *stage, n *node) error { return s.start(n) },
	},
	{
		"freeze", func(_ *stage, n *node) error { n.signal(unix.SIGSTOP); return nil },
		func(_ *stage, n *node) error { n.signal(unix.SIGCONT); return nil },
	},
	{
		"link", func(_ *stage, n *node) error { return n.setLink(false) },
		func(_ *stage, n *node) error { return n.setLink(true) },
	},
	{
		"partition", func(s *stage, n *node) error { return s.unplug(n.port) },
		func(s *stage, n *node) error { return s.plug(n.port) },
	},
	{
		"node", func(s *stage, n *node) error { err := s.unplug(n.port); n.kill(); return err },
		func(s *stage, n *node) error { return errors.Join(s.plug(n.port), s.start(n)) },
	},
}

func kindNames() (out []string) {
	for _, k := range kinds {
		out = append(out, k.name)
	}
	return out
}

// aftermath is how long is watched what a node does that is back.
const aftermath = 700 * time.Millisecond

// reading is what one loss did.
type reading struct {
	gap      time.Duration // between answers, until another node has the address
	takeover time.Duration // until another node was heard to have it
	back     time.Duration // the longest gap once the lost node was back
	double   time.Duration // how long two hosts answered for the address, all in all
}

// measure loses who holds the address, once.
func (s *stage) measure(ctx context.Context, k kind) (r reading, err error) {
	holder, err := s.settled(ctx)
	if err != nil {
		return r, err
	}
	begin := time.Now()
	if err := k.lose(s, holder); err != nil {
		return r, fmt.Errorf("%s of node %s: %w", k.name, holder.name, err)
	}
	err = s.until(ctx, fmt.Sprintf("another node has the address after %s of node %s", k.name, holder.name), func() error {
		at, moved := s.observer.movedFrom(holder.mac, begin)
		next := s.stream.holder()
		if !moved || next == "" || next == holder.name {
			return fmt.Errorf("moved %v, %q answers", moved, next)
		}
		r.takeover = at.Sub(begin)
		return nil
	})
	if err != nil {
		return r, err
	}
	back := time.Now()
	r.gap = s.stream.gap(begin, back)
	if err := k.back(s, holder); err != nil {
		return r, fmt.Errorf("bring node %s back: %w", holder.name, err)
	}
	if err := pause(ctx, aftermath); err != nil {
		return r, err
	}
	if !s.rejoins() && k.name != "kill" && k.name != "node" {
		holder.kill()
		if err := s.start(holder); err != nil {
			return r, err
		}
	}
	_, err = s.settled(ctx)
	end := time.Now()
	r.back, r.double = s.stream.gap(back, end), s.observer.twoOwners(begin, end)
	return r, err
}

// losses measures each kind so often.
func (p *plan) losses(ctx context.Context, s *stage, times int, into *results) error {
	for i := range times {
		for _, k := range kinds {
			if !slices.Contains(p.kinds, k.name) {
				continue
			}
			r, err := s.measure(ctx, k)
			if err != nil {
				return fmt.Errorf("%sloss %d by %s: %w", s.prefix(), i+1, k.name, err)
			}
			for name, d := range map[string]time.Duration{"gap_ms": r.gap, "takeover_ms": r.takeover, "back_gap_ms": r.back, "duplicate_owner_ms": r.double} {
				into.put(s.prefix()+name+"_"+k.name, figure.Milliseconds(d))
			}
			into.progress("%s%s %d: gap %v, taken over after %v, back %v, two owners %v", s.prefix(), k.name, i+1, r.gap.Round(time.Millisecond), r.takeover.Round(time.Millisecond), r.back.Round(time.Millisecond), r.double.Round(time.Millisecond))
		}
	}
	return nil
}
