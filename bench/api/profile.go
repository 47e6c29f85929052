package main

import (
	"context"
	"path/filepath"

	"portico.dev/portico/bench/apiserver"
)

// profileSeconds is how long the processor is watched: as long as the shortest phase.
var profileSeconds = map[string]int{"creates": 8, "gets": 2, "watch": 4}

// startProfile takes a profile of our server's processor while a phase runs; the
// returned function waits for its end.
func (p *plan) startProfile(ctx context.Context, s *apiserver.Server, phase string) (func() error, error) {
	if p.profile == "" {
		return func() error { return nil }, nil
	}
	return s.Profile(ctx, profileSeconds[phase], filepath.Join(p.profile, phase+".pprof"))
}

// heap saves a profile of what our server's memory holds.
func (p *plan) heap(ctx context.Context, s *apiserver.Server, name string) error {
	if p.profile == "" {
		return nil
	}
	return s.Heap(ctx, filepath.Join(p.profile, "heap-"+name+".pprof"))
}
