package main

import (
	"context"
	"fmt"
	"time"

	"portico.dev/portico/bench/figure"
)

// firstStarts starts all nodes at once, as after the power was away, where nothing is left
// of earlier runs. Each could take the address: it must be one's alone, and soon.
func (p *plan) firstStarts(ctx context.Context, s *stage, times int, into *results) error {
	for i := range times {
		if _, err := s.settled(ctx); err != nil {
			return err
		}
		for _, n := range s.nodes {
			n.kill()
		}
		if err := s.connect(ctx); err != nil {
			return err
		}
		for _, n := range s.nodes {
			if err := s.forget(s, n); err != nil {
				return fmt.Errorf("%sforget node %s: %w", s.prefix(), n.name, err)
			}
		}
		begin := time.Now()
		for _, n := range s.nodes {
			if err := s.start(n); err != nil {
				return err
			}
		}
		if _, err := s.settled(ctx); err != nil {
			return fmt.Errorf("%sfirst start %d: %w", s.prefix(), i+1, err)
		}
		end := time.Now()
		first, double := s.observer.answered(begin), s.observer.twoOwners(begin, end)
		into.put(s.prefix()+"first_start_seconds", first.Seconds())
		into.put(s.prefix()+"first_start_double_ms", figure.Milliseconds(double))
		into.progress("%sfirst start %d: the address answers after %v, two owners %v", s.prefix(), i+1, first.Round(time.Millisecond), double.Round(time.Millisecond))
	}
	return nil
}
