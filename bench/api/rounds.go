package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"portico.dev/portico/bench/apiserver"
	"portico.dev/portico/bench/figure"
)

// quietLook is for how long the server must be quiet, some times, after a load.
const quietLook = 2 * time.Second

// loadCommand makes this program the load process.
const loadCommand = "load"

// Names of figures, as in the file. The peer's have "peer_" in front.
const (
	readySeconds = "ready_seconds"
	idleMB       = "idle_rss_mb"
	createsFirst = "creates_per_second_first_1k"
	createsLast  = "creates_per_second_at_10k"
	createP99    = "create_p99_ms"
	createP99a   = "create_p99_first_1k_ms"
	createP99b   = "create_p99_at_10k_ms"
	getP99       = "get_p99_ms"
	gets         = "gets_per_second"
	fullMB       = "rss_10k_services_mb"
	fanout       = "watch_fanout_1000_ms"
	fanoutWorst  = "watch_fanout_1000_worst_ms"
	fanoutCPU    = "watch_fanout_1000_cpu_ms"
	createCPU    = "create_cpu_us"
	getCPU       = "get_cpu_us"
	backlog      = "settled_after_creates_seconds"
	peakMB       = "rss_peak_mb"
)

// figures are those of one server in one round.
type figures map[string]float64

// run measures both servers in turn, so that what else the machine does meets both.
func (p *plan) run(ctx context.Context) (err error) {
	dir, remove, err := p.Folder()
	if err != nil {
		return err
	}
	defer remove()
	var ours, peers, floors []figures
	for round := range p.Rounds {
		if p.floor {
			f, err := p.measureFloor(ctx, filepath.Join(dir, fmt.Sprint("floor-", round)))
			if err != nil {
				return fmt.Errorf("measure the floor: %w", err)
			}
			floors = append(floors, f)
			p.progress("floor", round, f)
		}
		f, err := p.measure(ctx, filepath.Join(dir, fmt.Sprint("portico-", round)), p.startPortico)
		if err != nil {
			return fmt.Errorf("measure Portico: %w", err)
		}
		ours = append(ours, f)
		p.progress("portico", round, f)
		if p.apiserver == "" {
			continue
		}
		f, err = p.measure(ctx, filepath.Join(dir, fmt.Sprint("peer-", round)), func(ctx context.Context, dir string) (*apiserver.Server, error) {
			return apiserver.Peer{Etcd: p.etcd, APIServer: p.apiserver}.Start(ctx, dir, p.serverCPUs)
		})
		if err != nil {
			return fmt.Errorf("measure the peer: %w", err)
		}
		peers = append(peers, f)
		p.progress("peer", round, f)
	}
	return p.write(newResult(p, ours, peers, floors))
}

func (p *plan) startPortico(ctx context.Context, dir string) (*apiserver.Server, error) {
	var more []string
	if p.profile != "" {
		more = []string{"--profiling"}
	}
	return apiserver.StartPortico(ctx, dir, p.serverCPUs, p.Portico, more...)
}

func (p *plan) progress(name string, round int, f figures) {
	raw, _ := json.Marshal(f) // numbers have a form
	fmt.Fprintf(os.Stderr, "round %d of %d, %s: %s\n", round+1, p.Rounds, name, raw)
}

// measure starts a server on an empty store, measures it, and removes all of it.
func (p *plan) measure(ctx context.Context, dir string, start func(context.Context, string) (*apiserver.Server, error)) (_ figures, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	s, err := start(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer s.Stop()
	f := figures{readySeconds: s.Ready.Seconds()}
	if f[idleMB], err = p.settledMB(ctx, s); err != nil {
		return nil, err
	}
	if err := p.heap(ctx, s, "idle"); err != nil {
		return nil, err
	}
	if err := addToken(ctx, s); err != nil {
		return nil, err
	}
	peak := s.WatchMemory()
	defer peak()
	creates, err := p.load(ctx, s, "creates")
	if err != nil {
		return nil, err
	}
	f[createCPU] = creates.CPU.us(p.job.Services)
	rest, err := s.Settle(ctx, quietLook)
	if err != nil {
		return nil, err
	}
	f[backlog], f[peakMB] = rest.Seconds(), peak()
	f[createsFirst], f[createsLast] = creates.Rates[0], creates.Rates[len(creates.Rates)-1]
	f[createP99], f[createP99a], f[createP99b] = creates.P99ms, creates.FirstP99ms, creates.LastP99ms
	if f[fullMB], err = p.settledMB(ctx, s); err != nil {
		return nil, err
	}
	if err := p.heap(ctx, s, "full"); err != nil {
		return nil, err
	}
	return f, p.reads(ctx, s, f)
}

// reads adds the figures of gets and watches.
func (p *plan) reads(ctx context.Context, s *apiserver.Server, f figures) error {
	read, err := p.load(ctx, s, "gets")
	if err != nil {
		return err
	}
	f[getP99], f[gets], f[getCPU] = read.P99ms, float64(p.job.Gets)/read.Seconds, read.CPU.us(p.job.Gets)
	watch, err := p.load(ctx, s, "watch")
	if err != nil {
		return err
	}
	f[fanout], f[fanoutWorst], f[fanoutCPU] = watch.P50ms, watch.MaxMs, watch.CPU.us(p.job.Changes)/1000
	return nil
}

// settledMB leaves the server alone for a while and reads its memory some times, for it
// breathes with the garbage collector.
func (p *plan) settledMB(ctx context.Context, s *apiserver.Server) (float64, error) {
	const readings = 5
	var all []float64
	for range readings {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(p.idle / readings):
		}
		mb, err := s.MemoryMB()
		if err != nil {
			return 0, err
		}
		all = append(all, mb)
	}
	return figure.Median(all[len(all)-3:]), nil
}

// load runs one phase in a process of its own.
func (p *plan) load(ctx context.Context, s *apiserver.Server, phase string) (report, error) {
	j := p.job
	j.Access, j.Phase = s.Access, phase
	input, err := json.Marshal(j)
	if err != nil {
		return report{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return report{}, fmt.Errorf("find this program: %w", err)
	}
	argv := []string{self, loadCommand}
	if p.loadCPUs != "" {
		argv = slices.Concat([]string{"taskset", "-c", p.loadCPUs}, argv)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), os.Stderr
	profiled, err := p.startProfile(ctx, s, phase)
	if err != nil {
		return report{}, err
	}
	before, err := s.ProcessorTime()
	if err != nil {
		return report{}, err
	}
	out, err := cmd.Output()
	if err := profiled(); err != nil {
		return report{}, err
	}
	if err != nil {
		return report{}, fmt.Errorf("%s: %w", phase, err)
	}
	after, err := s.ProcessorTime()
	if err != nil {
		return report{}, err
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		return report{}, fmt.Errorf("%s: read the report: %w", phase, err)
	}
	r.CPU = processorUse(after - before)
	return r, nil
}

// processorUse is what a server used of processors during a phase. It says what
// requests cost where other programs disturb the clock.
type processorUse time.Duration

// us is its part for each of n calls, in microseconds.
func (u processorUse) us(n int) float64 { return float64(time.Duration(u).Microseconds()) / float64(n) }
