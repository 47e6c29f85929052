package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"time"

	"portico.dev/portico/bench/figure"
)

// goals are what ours should be; those that weren't measured are left out.
func (p *plan) goals(own map[string]float64) (out []figure.Goal) {
	for _, g := range []figure.Goal{
		{Name: figure.Name("first_slices", p.services, "seconds"), Limit: 2},
		{Name: "slice_p99_ms", Limit: 10},
		{Name: figure.Name("slice_burst", p.burst, "seconds"), Limit: 1},
		{Name: allComputed, Limit: 1},
		{Name: oneComputed, Limit: 1},
	} {
		var measured bool
		if g.Value, measured = own[g.Name]; measured {
			out = append(out, g)
		}
	}
	return out
}

// Figures of the computation alone, of 100,000 endpoints in 1,000 Services.
const (
	allComputed = "slices_100k_compute_seconds"
	oneComputed = "slices_100k_change_cpu_ms"
)

// computed are the benchmarks of core/endpoints, as `go test -bench` prints them, with
// the figure that each is and its nanoseconds.
var computed = map[string]struct {
	line *regexp.Regexp
	unit time.Duration
}{
	allComputed: {regexp.MustCompile(`(?m)^BenchmarkThousandServices\S*\s+\d+\s+([\d.]+) ns/op`), time.Second},
	oneComputed: {regexp.MustCompile(`(?m)^BenchmarkOnePodOfThousandServices\S*\s.*\s([\d.]+) cpu-ns/op`), time.Millisecond},
}

func readComputed(file string, into figure.Rounds) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read what the benchmark of core/endpoints said: %w", err)
	}
	for name, c := range computed {
		for _, found := range c.line.FindAllSubmatch(raw, -1) {
			ns, err := strconv.ParseFloat(string(found[1]), 64)
			if err != nil {
				return fmt.Errorf("read %s: %w", file, err)
			}
			into.Add(ns/float64(c.unit), name)
		}
		if len(into[name]) == 0 {
			return fmt.Errorf("%s has no benchmark %s", file, c.line)
		}
	}
	return nil
}

// report writes medians over the rounds, flat, so that a line of shell can read one, and
// prints what is to be reached.
func (p *plan) report(ours, peers figure.Rounds) error {
	if p.compute != "" {
		if err := readComputed(p.compute, ours); err != nil {
			return err
		}
	}
	values := map[string]any{
		"slices_time": time.Now().UTC().Format(time.RFC3339), "slices_rounds": p.Rounds,
		"processors": runtime.NumCPU(), "file_system": figure.FileSystem(p.Dir),
	}
	spread, met := map[string][2]float64{}, map[string]bool{}
	own, peer := ours.Medians("", values, spread), peers.Medians("peer_", values, spread)
	goals := p.goals(own)
	for _, g := range goals {
		met[g.Name] = g.Met()
	}
	values["spread"], values["goal_met"] = spread, met
	raw, err := figure.Merge(p.Out, values)
	if err != nil {
		return err
	}
	if len(peers) == 0 {
		fmt.Println(string(raw))
	}
	return figure.PrintGoals(os.Stdout, goals, peer)
}
