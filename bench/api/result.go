package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
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
var further = []string{createP99a, createP99b, createCPU, backlog, peakMB, gets, getCPU, fanoutWorst}

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

func newResult(p *plan, ours, peers []figures) *result {
	r := &result{values: map[string]any{
		"fan_out_over": fmt.Sprintf("%d watches, %d connections", p.job.Watchers, p.job.Connections),
		"time":         time.Now().UTC().Format(time.RFC3339), "rounds": p.rounds, "services": p.job.Services, "clients": p.job.Clients,
		"processors": runtime.NumCPU(), "file_system": fileSystem(p.dir),
	}}
	spread := map[string][2]float64{}
	take := func(prefix, name string, rounds []figures) float64 {
		all := make([]float64, len(rounds))
		low, high := rounds[0][name], rounds[0][name]
		for i, f := range rounds {
			all[i] = f[name]
			low, high = min(low, f[name]), max(high, f[name])
		}
		spread[prefix+name] = [2]float64{round(low), round(high)}
		r.values[prefix+name] = round(median(all))
		return median(all)
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
		ratios[name] = round(own / peer)
		for _, g := range goals {
			if g.name == name {
				met[name] = g.met(own / peer)
				r.goals = append(r.goals, judged{g, own, peer, own / peer})
			}
		}
	}
	r.values["spread"] = spread
	if len(peers) > 0 {
		r.values["ratio"], r.values["goal_met"] = ratios, met
	}
	return r
}

// round keeps three decimals: finer than any figure repeats.
func round(x float64) float64 { return float64(int64(x*1000+0.5)) / 1000 }

// write saves the result and prints the comparison.
func (p *plan) write(r *result) error {
	raw, err := json.MarshalIndent(r.values, "", "  ")
	if err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	if p.out != "" {
		if err := os.MkdirAll(filepath.Dir(p.out), 0o755); err != nil {
			return fmt.Errorf("write the figures: %w", err)
		}
		if err := os.WriteFile(p.out, append(raw, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the figures: %w", err)
		}
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

// fileSystem names that of dir, as its writes are in the figures.
func fileSystem(dir string) string {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return "unknown: " + err.Error()
	}
	// linux/magic.h
	names := map[int64]string{0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlayfs", 0x2fc12fc1: "zfs"}
	if name, ok := names[int64(s.Type)]; ok {
		return name
	}
	return "0x" + strings.TrimLeft(fmt.Sprintf("%x", s.Type), "0")
}
