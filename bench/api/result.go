package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"

	"portico.dev/portico/bench/figure"
)

// goal is what the ratio of our figure to the peer's should be.
type goal struct {
	name  string
	limit float64
	more  bool // at least the limit; else less than it
}

// goals also order the table.
var goals = []goal{
	{readySeconds, 0.5, false},
	{idleMB, 0.6, false},
	{createsFirst, 3, true},
	{createsLast, 8, true},
	{createP99, 0.5, false},
	{getP99, 0.5, false},
	{fullMB, 0.6, false},
	{fanout, 0.5, false},
}

// further figures have no goal.
var further = []string{createP99a, createP99b, createCPU, backlog, peakMB, gets, getCPU, fanoutWorst, fanoutCPU}

func (g goal) met(ratio float64) bool {
	if g.more {
		return ratio >= g.limit
	}
	return ratio < g.limit
}

// result is the file. Its figures are medians over the rounds, flat, so that a line
// of shell can read one.
type result struct {
	goals  []judged
	values map[string]any
}

type judged struct {
	goal
	own, peer, ratio float64
}

func newResult(p *plan, ours, peers, floors []figures) *result {
	r := &result{values: map[string]any{
		"fan_out_over": fmt.Sprintf("%d watches, %d connections", p.job.Watchers, p.job.Connections),
		"time":         time.Now().UTC().Format(time.RFC3339), "rounds": p.Rounds, "services": p.job.Services, "clients": p.job.Clients,
		"processors": runtime.NumCPU(), "file_system": figure.FileSystem(p.Dir),
	}}
	spread := map[string][2]float64{}
	take := func(prefix, name string, rounds []figures) float64 {
		all := make([]float64, len(rounds))
		low, high := rounds[0][name], rounds[0][name]
		for i, f := range rounds {
			all[i] = f[name]
			low, high = min(low, f[name]), max(high, f[name])
		}
		spread[prefix+name] = [2]float64{figure.Round(low), figure.Round(high)}
		r.values[prefix+name] = figure.Round(figure.Median(all))
		return figure.Median(all)
	}
	names := slices.Clone(further)
	for _, g := range goals {
		names = append(names, g.name)
	}
	ratios, met := map[string]float64{}, map[string]bool{}
	for _, name := range names {
		own := take("", name, ours)
		if len(peers) == 0 {
			continue
		}
		peer := take("peer_", name, peers)
		ratios[name] = figure.Round(own / peer)
		for _, g := range goals {
			if g.name == name {
				met[name] = g.met(own / peer)
				r.goals = append(r.goals, judged{g, own, peer, own / peer})
			}
		}
	}
	if len(floors) > 0 {
		for _, name := range floorFigures {
			take("floor_", name, floors)
		}
	}
	r.values["spread"] = spread
	if len(peers) > 0 {
		r.values["ratio"], r.values["goal_met"] = ratios, met
	}
	return r
}

// write saves the result and prints the comparison.
func (p *plan) write(r *result) error {
	raw, err := figure.Write(p.Out, r.values)
	if err != nil {
		return err
	}
	if len(r.goals) == 0 {
		fmt.Println(string(raw))
		return nil
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "figure\tPortico\tpeer\tratio\tgoal\t\t")
	for _, g := range r.goals {
		sign, verdict := "<", "missed"
		if g.more {
			sign = ">="
		}
		if g.met(g.ratio) {
			verdict = "met"
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%s %g\t%s\t\n", g.name, g.own, g.peer, g.ratio, sign, g.limit, verdict)
	}
	return w.Flush()
}
