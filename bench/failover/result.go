package main

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"portico.dev/portico/bench/figure"
)

// peerPrefix begins the names of the peer's figures.
const peerPrefix = "metallb_"

// results collects readings of figures by their names.
type results struct {
	plan  *plan
	begin time.Time

	mu       sync.Mutex // guards the following
	readings map[string][]float64
	sums     map[string]float64
	notes    []string
}

func newResults(p *plan) *results {
	return &results{plan: p, begin: time.Now(), readings: map[string][]float64{}, sums: map[string]float64{}}
}

// put adds a reading of a figure.
func (r *results) put(name string, value float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readings[name] = append(r.readings[name], value)
}

// add adds to a figure that is a sum.
func (r *results) add(name string, value float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sums[name] += value
}

// note adds a sentence to the figures.
func (r *results) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, text)
}

func (r *results) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs "+format+"\n", append([]any{time.Since(r.begin).Seconds()}, args...)...)
}

// perLoss begins the names of what each loss has a reading of.
var perLoss = []string{"gap_ms_", "takeover_ms_", "back_gap_ms_", "duplicate_owner_ms_"}

// values gives each figure: of what each loss has, the median, p99 and the worst.
func (r *results) values() map[string]float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]float64{}
	for name, sum := range r.sums {
		out[name] = sum
	}
	for name, all := range r.readings {
		bare := strings.TrimPrefix(name, peerPrefix)
		i := slices.IndexFunc(perLoss, func(prefix string) bool { return strings.HasPrefix(bare, prefix) })
		if i < 0 {
			// What is to be small is judged by the worst.
			out[name] = slices.Max(all)
			continue
		}
		of, kind := perLoss[i], strings.TrimPrefix(bare, perLoss[i])
		name := func(what string) string { return strings.TrimSuffix(name, bare) + of + what + "_" + kind }
		sorted := slices.Sorted(slices.Values(all))
		out[name("p50")] = figure.Median(all)
		out[name("p99")] = sorted[min(len(sorted)-1, len(sorted)*99/100)]
		out[name("worst")] = sorted[len(sorted)-1]
	}
	return out
}

// goals are what figures should be at most.
func goals() map[string]float64 {
	out := map[string]float64{"planned_lost_requests": 0, "false_takeovers": 0, "all_1000_moved_seconds": 1.5, "first_start_double_ms": 0, "first_start_seconds": 5}
	for _, kind := range kindNames() {
		out["gap_ms_p99_"+kind], out["takeover_ms_p99_"+kind] = 1000, 1000
	}
	return out
}

// write saves the figures, flat, so that a line of shell can read one, and prints what
// the goals say.
func (r *results) write(out string) error {
	figures := r.values()
	values := map[string]any{
		"time": r.begin.UTC().Format(time.RFC3339), "took_seconds": figure.Round(time.Since(r.begin).Seconds()), "processors": runtime.NumCPU(),
		"losses": r.plan.times, "load_seconds": r.plan.load.Seconds(), "services": r.plan.services,
	}
	if r.plan.speaker != "" {
		values["metallb_losses"] = r.plan.peerTimes
	}
	ratios := map[string]float64{}
	for name, value := range figures {
		values[name] = figure.Round(value)
		if other := figures[peerPrefix+name]; other > 0 {
			ratios[name] = figure.Round(value / other)
		}
	}
	met := map[string]bool{}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tmeasured\tat most\t\tpeer")
	goals := goals()
	for _, name := range slices.Sorted(maps.Keys(goals)) {
		value, measured := figures[name]
		if !measured {
			continue
		}
		met[name] = value <= goals[name]
		verdict := "met"
		if !met[name] {
			verdict = "missed"
		}
		peer := "-"
		if other, ok := figures[peerPrefix+name]; ok {
			peer = fmt.Sprintf("%.2f", other)
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%s\t%s\n", name, value, goals[name], verdict, peer)
	}
	values["ratio"], values["goal_met"] = ratios, met
	if len(r.notes) > 0 {
		values["notes"] = r.notes
	}
	raw, err := figure.Write(out, values)
	if err != nil {
		return err
	}
	if out == "" {
		fmt.Println(string(raw))
	}
	return w.Flush()
}
