package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"text/tabwriter"
	"time"

	"portico.dev/portico/bench/figure"
)

// goal is what a figure of ours should be less than.
type goal struct {
	name  string
	limit float64
}

func (p *plan) goals() []goal {
	return []goal{
		{said("first_slices", p.services, "seconds"), 2},
		{"slice_p99_ms", 10},
		{said("slice_burst", p.burst, "seconds"), 1},
		{allComputed, 1},
		{oneComputed, 1},
	}
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

func readComputed(file string, into figures) error {
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
			into.add(name, ns/float64(c.unit))
		}
		if len(into[name]) == 0 {
			return fmt.Errorf("%s has no benchmark %s", file, c.line)
		}
	}
	return nil
}

// report writes medians over the rounds, flat, so that a line of shell can read one, and
// prints what is to be reached.
func (p *plan) report(ours, peers figures) error {
	if p.compute != "" {
		if err := readComputed(p.compute, ours); err != nil {
			return err
		}
	}
	all := maps.Clone(ours)
	for name, rounds := range peers {
		all["peer_"+name] = rounds
	}
	values := map[string]any{
		"slices_time": time.Now().UTC().Format(time.RFC3339), "slices_rounds": p.rounds,
		"processors": runtime.NumCPU(), "file_system": figure.FileSystem(p.dir),
	}
	spread, met := map[string][2]float64{}, map[string]bool{}
	for name, rounds := range all {
		values[name], spread[name] = figure.Round(figure.Median(rounds)), figure.Spread(rounds)
	}
	for _, g := range p.goals() {
		if rounds, ok := ours[g.name]; ok {
			met[g.name] = figure.Median(rounds) < g.limit
		}
	}
	values["spread"], values["goal_met"] = spread, met
	raw, err := figure.Merge(p.out, values)
	if err != nil {
		return err
	}
	if len(peers) == 0 {
		fmt.Println(string(raw))
	}
	return p.print(values, met)
}

func (p *plan) print(values map[string]any, met map[string]bool) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "figure\tPortico\tpeer\tgoal\t\t")
	for _, g := range p.goals() {
		value, ok := values[g.name]
		if !ok {
			continue
		}
		verdict, peer := "missed", "-"
		if met[g.name] {
			verdict = "met"
		}
		if v, ok := values["peer_"+g.name]; ok {
			peer = fmt.Sprintf("%.3f", v)
		}
		fmt.Fprintf(w, "%s\t%.3f\t%s\t< %g\t%s\t\n", g.name, value, peer, g.limit, verdict)
	}
	return w.Flush()
}
