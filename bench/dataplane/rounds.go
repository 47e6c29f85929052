package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// restartSize is how many Services there are when agents are restarted.
const restartSize = 1000

// run measures all with few Services, then with more: the API keeps what it has.
func (p *plan) run(ctx context.Context) (err error) {
	mountTracing()
	dir, err := os.MkdirTemp(p.dir, "portico-bench-")
	if err != nil {
		return fmt.Errorf("make the servers' folder: %w", err)
	}
	defer os.RemoveAll(dir)
	if p.portico, err = filepath.Abs(p.portico); err != nil {
		return err
	}
	w, err := newWorld(ctx, dir, p.portico, p.look)
	if err != nil {
		return err
	}
	defer w.close()
	if slices.Contains(p.modes, modeIptables) {
		if err := w.linkTools(); err != nil {
			return err
		}
	}
	into := newResults(p)
	for _, size := range p.sizes {
		if err := p.measure(ctx, w, size, into); err != nil {
			return errors.Join(err, into.write("")) // what was measured before isn't lost
		}
	}
	return into.write(p.out)
}

// measure does all parts that are wanted at one number of Services.
func (p *plan) measure(ctx context.Context, w *world, size int, into *results) error {
	into.progress("making %d Services with %d endpoints each", size, endpointsEach)
	if err := w.grow(ctx, size); err != nil {
		return err
	}
	restartAt := restartSize
	if !slices.Contains(p.sizes, restartSize) && len(p.latencySizes) > 0 {
		restartAt = p.latencySizes[len(p.latencySizes)-1]
	}
	latency := slices.Contains(p.latencySizes, size)
	for _, step := range []struct {
		name string
		want bool
		do   func(context.Context, *world, int, *results) error
	}{
		{"starts on an empty kernel", latency && p.does(partProgram), p.program},
		{"agents at work", latency && (p.does(partLatency) || p.does(partMemory)), p.agents},
		{"restarts", size == restartAt && p.does(partRestart), p.restart},
		{"connections", p.does(partCRR), p.crr},
		{"iptables", latency && p.does(partIptables) && slices.Contains(p.modes, modeIptables), p.inIptables},
		{"ipvs", latency && p.does(partIpvs) && p.guestImage != "", p.inIpvs},
		{"userspace", latency && p.does(partUserspace), p.inUserspace},
	} {
		if !step.want {
			continue
		}
		into.progress("%d Services: %s", size, step.name)
		if err := step.do(ctx, w, size, into); err != nil {
			return err
		}
	}
	return nil
}
