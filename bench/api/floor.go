package main

import (
	"context"
	"fmt"
	"os"

	"portico.dev/portico/bench/apiserver"
)

// floorCommand makes this program the server that only answers.
const floorCommand = "floor"

// floorFigures are those that a server without a store can have.
var floorFigures = []string{getP99, gets, getCPU, fanout, fanoutWorst, fanoutCPU}

// measureFloor takes the figures of reads and watches.
func (p *plan) measureFloor(ctx context.Context, dir string) (figures, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	s, err := apiserver.StartFloor(ctx, dir, p.serverCPUs, self, floorCommand)
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	f := figures{}
	return f, p.reads(ctx, s, f)
}
