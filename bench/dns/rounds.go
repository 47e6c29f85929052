package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"text/tabwriter"
	"time"

	"portico.dev/portico/bench/figure"
)

// Names of figures; the load and the size follow, "peer_" stands before the peer's.
const (
	perCPU     = "qps_per_cpu"
	p50        = "p50_ms"
	p99        = "p99_ms"
	resident   = "rss_mb"
	anonymous  = "rss_anonymous_mb"
	resolveP50 = "resolve_after_watch_p50_ms"
	resolveP99 = "resolve_after_watch_p99_ms"
	echoPerCPU = "echo_qps_per_cpu"
)

// figures are all measurements of one server, by name, round by round.
type figures map[string][]float64

func (f figures) add(value float64, name ...any) {
	key := said(name...)
	f[key] = append(f[key], value)
}

// run measures both servers in turn, so that what else the machine does meets both.
func (p *plan) run(ctx context.Context) error {
	dir, err := os.MkdirTemp(p.dir, "portico-bench-")
	if err != nil {
		return fmt.Errorf("make the servers' folder: %w", err)
	}
	defer os.RemoveAll(dir)
	a, err := startAPI(ctx, dir, p.portico)
	if err != nil {
		return err
	}
	defer a.stop()
	ours, peers := figures{}, figures{}
	for _, size := range p.sizes {
		if err := a.grow(ctx, size); err != nil {
			return err
		}
		if err := a.settle(ctx, p.look); err != nil {
			return fmt.Errorf("wait for what follows %d Services: %w", size, err)
		}
		if err := writeQuestions(dir, size); err != nil {
			return err
		}
		for round := range p.rounds {
			if err := p.measure(ctx, a, p.startPortico, size, ours); err != nil {
				return fmt.Errorf("measure Portico with %d Services: %w", size, err)
			}
			if err := p.measureEcho(ctx, a, ours); err != nil {
				return fmt.Errorf("measure the echo: %w", err)
			}
			if p.coredns != "" {
				if err := p.measure(ctx, a, p.startCoreDNS, size, peers); err != nil {
					return fmt.Errorf("measure CoreDNS with %d Services: %w", size, err)
				}
			}
			fmt.Fprintf(os.Stderr, "%d Services, round %d of %d\n", size, round+1, p.rounds)
		}
	}
	return p.report(ours, peers)
}

// measure starts a server, measures it, and stops it.
func (p *plan) measure(ctx context.Context, a *api, how starter, size int, into figures) error {
	s, err := start(ctx, a, how)
	if err != nil {
		return err
	}
	defer s.Stop()
	// Neither the server's start nor what it asked of the API is to disturb.
	if err := errors.Join(s.settle(ctx, p.look), a.settle(ctx, p.look)); err != nil {
		return err
	}
	for _, load := range []string{namesLoad, mixLoad} {
		v, err := s.perProcessor(ctx, p, a.dir, load)
		if err != nil {
			return err
		}
		into.add(v, perCPU, load, size)
	}
	half, most, err := s.waiting(ctx, p, a.dir)
	if err != nil {
		return err
	}
	into.add(half, p50, size)
	into.add(most, p99, size)
	all, err := s.news(ctx, a, p.news)
	if err != nil {
		return err
	}
	into.add(figure.Milliseconds(figure.Percentile(all, 50)), resolveP50, size)
	into.add(figure.Milliseconds(figure.Percentile(all, 99)), resolveP99, size)
	select {
	case <-time.After(p.idle):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m, err := s.Memory()
	if err != nil {
		return err
	}
	into.add(m.Resident, resident, size)
	into.add(m.Anonymous, anonymous, size)
	return nil
}

func (p *plan) measureEcho(ctx context.Context, a *api, into figures) error {
	s, err := startEcho(a.dir)
	if err != nil {
		return err
	}
	defer s.Stop()
	if err := s.Wait(ctx, startPatience, func(ctx context.Context) error {
		// What comes back has no answers, but it comes.
		_, err := s.answers(ctx, serviceName(0))
		return err
	}); err != nil {
		return err
	}
	v, err := s.perProcessor(ctx, p, a.dir, namesLoad)
	into.add(v, echoPerCPU)
	return err
}

// goal is what a figure of the file should be. Of several sizes and loads the worst counts.
type goal struct {
	name  string
	value float64
	limit float64
	more  bool // at least the limit; else less than it
}

func (g goal) met() bool {
	if g.more {
		return g.value >= g.limit
	}
	return g.value < g.limit
}

// report writes medians over the rounds, flat, so that a line of shell can read one,
// and prints what is to be reached.
func (p *plan) report(ours, peers figures) error {
	values := map[string]any{
		"time": time.Now().UTC().Format(time.RFC3339), "rounds": p.rounds, "services": p.sizes, "processors": runtime.NumCPU(),
		"load": fmt.Sprintf("dnsperf, %d clients, UDP over loopback", clients), "rate_of_p99": p.rate,
	}
	spread := map[string][2]float64{}
	own, peer := medians("", ours, values, spread), medians("peer_", peers, values, spread)
	values["spread"] = spread
	goals := p.goals(own, peer)
	met := map[string]bool{}
	for _, g := range goals {
		values[g.name], met[g.name] = figure.Round(g.value), g.met()
	}
	values["goal_met"] = met
	raw, err := figure.Merge(p.out, values)
	if err != nil {
		return err
	}
	if p.coredns == "" {
		fmt.Println(string(raw))
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "figure\tvalue\tgoal\t\t")
	for _, g := range goals {
		sign, verdict := "<", "missed"
		if g.more {
			sign = ">="
		}
		if g.met() {
			verdict = "met"
		}
		fmt.Fprintf(w, "%s\t%.3f\t%s %g\t%s\t\n", g.name, g.value, sign, g.limit, verdict)
	}
	return w.Flush()
}

func medians(prefix string, f figures, values map[string]any, spread map[string][2]float64) map[string]float64 {
	out := map[string]float64{}
	for name, all := range f {
		out[name] = figure.Median(all)
		values[prefix+name], spread[prefix+name] = figure.Round(out[name]), figure.Spread(all)
	}
	return out
}

func (p *plan) goals(own, peer map[string]float64) (out []goal) {
	worst := func(name string, limit float64, more bool, of func(size int) []float64) {
		g := goal{name: name, limit: limit, more: more}
		for i, size := range p.sizes {
			for j, v := range of(size) {
				if i == 0 && j == 0 || more == (v < g.value) {
					g.value = v
				}
			}
		}
		out = append(out, g)
	}
	ratio := func(names ...string) func(int) []float64 {
		return func(size int) (all []float64) {
			for _, name := range names {
				all = append(all, own[said(name, size)]/peer[said(name, size)])
			}
			return all
		}
	}
	names, mix := said(perCPU, namesLoad), said(perCPU, mixLoad)
	if len(peer) > 0 {
		worst("qps_per_cpu_ratio", 4, true, ratio(names, mix))
		worst("p99_ratio", 0.5, false, ratio(p99))
		worst("rss_ratio", 0.5, false, ratio(resident))
	}
	worst(resolveP99, 1, false, func(size int) []float64 { return []float64{own[said(resolveP99, size)]} })
	worst("echo_ratio", 0.6, true, func(size int) []float64 { return []float64{own[said(names, size)] / own[echoPerCPU]} })
	return out
}
