package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
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

// run measures both servers in turn, so that what else the machine does meets both.
func (p *plan) run(ctx context.Context) error {
	dir, remove, err := p.Folder()
	if err != nil {
		return err
	}
	defer remove()
	a, err := startAPI(ctx, dir, p.Portico)
	if err != nil {
		return err
	}
	defer a.stop()
	ours, peers := figure.Rounds{}, figure.Rounds{}
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
		for round := range p.Rounds {
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
			fmt.Fprintf(os.Stderr, "%d Services, round %d of %d\n", size, round+1, p.Rounds)
		}
	}
	return p.report(ours, peers)
}

// measure starts a server, measures it, and stops it.
func (p *plan) measure(ctx context.Context, a *api, how starter, size int, into figure.Rounds) error {
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
		into.Add(v, perCPU, load, size)
	}
	half, most, err := s.waiting(ctx, p, a.dir)
	if err != nil {
		return err
	}
	into.Add(half, p50, size)
	into.Add(most, p99, size)
	all, err := s.news(ctx, a, p.news)
	if err != nil {
		return err
	}
	into.Add(figure.Milliseconds(figure.Percentile(all, 50)), resolveP50, size)
	into.Add(figure.Milliseconds(figure.Percentile(all, 99)), resolveP99, size)
	select {
	case <-time.After(p.idle):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m, err := s.Memory()
	if err != nil {
		return err
	}
	into.Add(m.Resident, resident, size)
	into.Add(m.Anonymous, anonymous, size)
	return nil
}

func (p *plan) measureEcho(ctx context.Context, a *api, into figure.Rounds) error {
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
	into.Add(v, echoPerCPU)
	return err
}

// report writes medians over the rounds, flat, so that a line of shell can read one,
// and prints what is to be reached.
func (p *plan) report(ours, peers figure.Rounds) error {
	values := map[string]any{
		"time": time.Now().UTC().Format(time.RFC3339), "rounds": p.Rounds, "services": p.sizes, "processors": runtime.NumCPU(),
		"load": fmt.Sprintf("dnsperf, %d clients, UDP over loopback", clients), "rate_of_p99": p.rate,
	}
	spread, met := map[string][2]float64{}, map[string]bool{}
	own, peer := ours.Medians("", values, spread), peers.Medians("peer_", values, spread)
	goals := p.goals(own, peer)
	for _, g := range goals {
		values[g.Name], met[g.Name] = figure.Round(g.Value), g.Met()
	}
	values["spread"], values["goal_met"] = spread, met
	raw, err := figure.Merge(p.Out, values)
	if err != nil {
		return err
	}
	if p.coredns == "" {
		fmt.Println(string(raw))
	}
	return figure.PrintGoals(os.Stdout, goals, nil)
}

// goals are what the figures should be. Of several sizes and loads the worst counts.
func (p *plan) goals(own, peer map[string]float64) (out []figure.Goal) {
	worst := func(name string, limit float64, more bool, of func(size int) []float64) {
		g := figure.Goal{Name: name, Limit: limit, More: more}
		for i, size := range p.sizes {
			for j, v := range of(size) {
				if i == 0 && j == 0 || more == (v < g.Value) {
					g.Value = v
				}
			}
		}
		out = append(out, g)
	}
	ratio := func(names ...string) func(int) []float64 {
		return func(size int) (all []float64) {
			for _, name := range names {
				all = append(all, own[figure.Name(name, size)]/peer[figure.Name(name, size)])
			}
			return all
		}
	}
	names, mix := figure.Name(perCPU, namesLoad), figure.Name(perCPU, mixLoad)
	if len(peer) > 0 {
		worst("qps_per_cpu_ratio", 4, true, ratio(names, mix))
		worst("p99_ratio", 0.5, false, ratio(p99))
		worst("rss_ratio", 0.5, false, ratio(resident))
	}
	worst(resolveP99, 1, false, func(size int) []float64 { return []float64{own[figure.Name(resolveP99, size)]} })
	worst("echo_ratio", 0.6, true, func(size int) []float64 { return []float64{own[figure.Name(names, size)] / own[echoPerCPU]} })
	return out
}
