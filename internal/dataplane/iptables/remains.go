package iptables

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// installed gives all variants that this host has.
func installed() (out []*programs) {
	for _, v := range []string{Legacy, NFTables} {
		if p, err := exact(v, here); err == nil {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		if p, err := choose(context.Background(), here); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// Remains names what this network namespace has of ours, by either variant.
func Remains(ctx context.Context) (words []string, err error) {
	for _, p := range installed() {
		for _, v6 := range []bool{false, true} {
			r, err := p.readExisting(ctx, v6)
			if err != nil {
				return nil, err
			}
			if n := len(r.held); n > 0 {
				family := "iptables"
				if v6 {
					family = "ip6tables"
				}
				words = append(words, fmt.Sprintf("%s chains %s* (%s)", family, prefix, p.variant))
			}
		}
	}
	return words, nil
}

// Remove takes away what a node that was run with this data plane has left.
func Remove(ctx context.Context) error {
	var errs []error
	for _, p := range installed() {
		errs = append(errs, p.remove(ctx))
	}
	return errors.Join(errs...)
}

func (p *programs) readExisting(ctx context.Context, v6 bool) (*reading, error) {
	r := newReading()
	for t := range table(tables) {
		text, err := p.saveExisting(ctx, v6, t)
		if err != nil {
			return nil, err
		}
		if err := r.parse(t, text); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// remove takes our jumps and chains away.
func (p *programs) remove(ctx context.Context) error {
	for _, v6 := range []bool{false, true} {
		r, err := p.readExisting(ctx, v6)
		if err != nil {
			return fmt.Errorf("remove the rules of iptables: %w", err)
		}
		var out batch
		for i := range hooks {
			out.unhook(i, r.present(i))
		}
		var sets []update
		for c := range r.held {
			if u := (update{chain: c, gone: true}); p.variant != Legacy && strings.HasPrefix(c.name, setPrefix) {
				sets = append(sets, u)
			} else {
				out.add([]update{u})
			}
		}
		slices.SortFunc(sets, func(a, b update) int { return strings.Compare(a.name, b.name) })
		batches := []*batch{&out} // what leads to the sets goes first
		for portion := range portions(sets) {
			b := &batch{}
			b.add(portion)
			batches = append(batches, b)
		}
		for _, b := range batches {
			if b.commits() == 0 {
				continue
			}
			if err := p.restore(ctx, v6, b.text()); err != nil {
				return fmt.Errorf("remove the rules of iptables: %w", err)
			}
		}
	}
	return nil
}
