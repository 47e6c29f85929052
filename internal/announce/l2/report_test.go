package l2

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"portico.dev/portico/internal/announce/greet"
)

// LB-07: each move is counted by its kind, and with its time where a node was lost.
func TestMovesAreCounted(t *testing.T) {
	c := newCounters()
	c.taken(&holding{})
	c.taken(&holding{from: "b"})
	c.taken(&holding{from: "b", Claim: greet.Claim{Took: 350 * time.Millisecond}})
	if c.fresh.Load() != 1 || c.planned.Load() != 1 || c.lost.Load() != 1 {
		t.Errorf("%d of nobody, %d handed over, %d of a lost node", c.fresh.Load(), c.planned.Load(), c.lost.Load())
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(c.took)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	if h := families[0].Metric[0].GetHistogram(); h.GetSampleCount() != 1 || h.GetSampleSum() != 0.35 {
		t.Errorf("times of moves: %v", h)
	}
}
