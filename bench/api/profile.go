package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"portico.dev/portico/bench/apiclient"
)

// profileSeconds is how long the processor is watched: as long as the shortest phase.
var profileSeconds = map[string]int{"creates": 8, "gets": 2, "watch": 4}

// startProfile takes a profile of our server's processor while a phase runs; the
// returned function waits for its end.
func (p *plan) startProfile(ctx context.Context, s *subject, phase string) (func() error, error) {
	if p.profile == "" {
		return func() error { return nil }, nil
	}
	c, err := apiclient.Dial(ctx, s.access, false)
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go func() {
		defer c.Close()
		done <- p.save(c, fmt.Sprintf("/debug/pprof/profile?seconds=%d", profileSeconds[phase]), phase)
	}()
	return func() error { return <-done }, nil
}

// heap saves a profile of what our server's memory holds.
func (p *plan) heap(ctx context.Context, s *subject, name string) error {
	if p.profile == "" {
		return nil
	}
	c, err := apiclient.Dial(ctx, s.access, false)
	if err != nil {
		return err
	}
	defer c.Close()
	return p.save(c, "/debug/pprof/heap?gc=1", "heap-"+name)
}

func (p *plan) save(c *apiclient.Client, path, name string) error {
	var answer bytes.Buffer
	if err := c.Must("GET", path, "", nil, &answer); err != nil {
		return err
	}
	if err := os.MkdirAll(p.profile, 0o755); err != nil {
		return fmt.Errorf("save a profile: %w", err)
	}
	return os.WriteFile(filepath.Join(p.profile, name+".pprof"), answer.Bytes(), 0o644)
}
