package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// installed gives all variants that this host has.
func installed(enter func(func() error) error) (out []*programs) {
	for _, v := range []string{Legacy, NFTables} {
		if p, err := exact(v, enter); err == nil {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		if p, err := choose(context.Background(), enter); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// Remains names what this network namespace has of ours, by either variant.
func Remains(ctx context.Context) (words []string, err error) {
	for _, p := range installed(here) {
		for _, v6 := range []bool{false, true} {
			r := newReading()
			if err := p.read(ctx, v6, r); err != nil {
				return nil, err
			}
			if len(r.held) > 0 {
				words = append(words, p.title(v6))
			}
		}
	}
	return words, nil
}

// Remove takes away what a node that was run with this data plane has left.
func Remove(ctx context.Context) error {
	var errs []error
	for _, p := range installed(here) {
		errs = append(errs, p.remove(ctx))
	}
	return errors.Join(errs...)
}

// read gives what the kernel has of ours in one family.
func (p *programs) read(ctx context.Context, v6 bool, into *reading) error {
	for t := range table(tables) {
		text, err := p.saveExisting(ctx, v6, t)
		if err != nil {
			return err
		}
		if err := into.parse(t, text); err != nil {
			return err
		}
	}
	return nil
}

// remove takes our jumps and chains away.
func (p *programs) remove(ctx context.Context) error {
	var errs []error
	for _, v6 := range []bool{false, true} {
		if err := p.removeFamily(ctx, v6); err != nil {
			errs = append(errs, fmt.Errorf("remove the %s: %w", p.title(v6), err))
		}
	}
	return errors.Join(errs...)
}

func (p *programs) removeFamily(ctx context.Context, v6 bool) error {
	r := newReading()
	if err := p.read(ctx, v6, r); err != nil {
		return err
	}
	if !v6 && r.guardsLoopback() {
		if err := p.setLocalnet(false); err != nil {
			return err
		}
	}
	var out batch
	for i := range hooks {
		out.unhook(i, r.present(i))
	}
	var all []update
	for c := range r.held {
		all = append(all, update{chain: c, gone: true})
	}
	sortUpdates(all)
	all, spared := r.spare(all)
	out.add(all)
	if out.commits() > 0 {
		if err := p.restore(ctx, v6, out.text()); err != nil {
			return err
		}
	}
	if len(spared) > 0 {
		return fmt.Errorf("rules of others lead to %s, which are empty now; remove those rules, then run it again", strings.Join(spared, ", "))
	}
	return nil
}
