package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/figure"
)

// lane is one way from a client to backends.
type lane struct {
	prefix string // of its figures
	site   *site
	to     targets
}

// plainPrefix begins the figures of plain routing.
const plainPrefix = "plain_"

// cost is what one connection with a request takes, in one round.
type cost struct {
	cpu     time.Duration // of all processors, for each connection
	latency time.Duration // the median
}

// compare has the lanes make connections by turns, round by round, and gives the costs
// of each in the order of rounds. Each starts rounds as often as the others do.
func (p *plan) compare(ctx context.Context, lanes []*lane) (map[string][]cost, error) {
	meter, err := newMeter()
	if err != nil {
		return nil, err
	}
	out := map[string][]cost{}
	for round := range p.crrRounds + 1 {
		for i := range lanes {
			l := lanes[(i+round)%len(lanes)]
			c, err := l.measure(meter, p.connections)
			if err != nil {
				return nil, fmt.Errorf("connect through %s: %w", l.site.name, err)
			}
			if round > 0 { // the first one finds cold caches
				out[l.prefix] = append(out[l.prefix], c)
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
		}
	}
	return out, nil
}

func (l *lane) measure(m *meter, connections int) (c cost, err error) {
	took := make([]time.Duration, connections)
	err = l.site.client.Do(func() error {
		if err := pin(); err != nil {
			return err
		}
		before, err := m.read()
		if err != nil {
			return err
		}
		for i := range took {
			began := time.Now()
			if err := exchange(l.to.any()); err != nil {
				return err
			}
			took[i] = time.Since(began)
		}
		after, err := m.read()
		c.cpu = (after - before) / time.Duration(connections)
		return err
	})
	if err == nil {
		c.latency = figure.Percentile(took, 50)
	}
	return c, err
}

// meter reads the processor time of this process, whose system calls carry most packets
// all the way, and of the kernel's threads that take over what is left. The kernel counts
// it in nanoseconds, with the interrupts that came meanwhile; what other programs do is
// not in it.
type meter struct {
	clocks []int32
}

func newMeter() (*meter, error) {
	m := &meter{clocks: []int32{unix.CLOCK_PROCESS_CPUTIME_ID}}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, p := range processes {
		id, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		name, err := os.ReadFile("/proc/" + p.Name() + "/comm")
		if err == nil && bytes.HasPrefix(name, []byte("ksoftirqd/")) {
			m.clocks = append(m.clocks, processClock(id))
		}
	}
	return m, nil
}

// processClock is the clock of a process's processor time: include/linux/posix-timers.h,
// MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED.
func processClock(id int) int32 { return ^int32(id)<<3 | 2 }

func (m *meter) read() (time.Duration, error) {
	var sum time.Duration
	for _, clock := range m.clocks {
		var ts unix.Timespec
		if err := unix.ClockGettime(clock, &ts); err != nil {
			return 0, fmt.Errorf("read a processor clock: %w", err)
		}
		sum += time.Duration(ts.Nano())
	}
	return sum, nil
}

// crr measures connections through all contenders that hold this many Services, in some
// sittings. Each is on new sites: where the kernel happens to put what a site is made of is
// worth one or two percent, for as long as the site is there. The median of a sitting's rounds is
// one reading.
func (p *plan) crr(ctx context.Context, w *world, size int, into *results) error {
	for range p.sittings {
		costs, err := p.sitting(ctx, w, size)
		if err != nil {
			return err
		}
		for prefix, rounds := range costs {
			var cpu, latency, ratio []float64
			for i, c := range rounds {
				cpu, latency = append(cpu, microseconds(c.cpu)), append(latency, microseconds(c.latency))
				ratio = append(ratio, float64(c.cpu)/float64(costs[plainPrefix][i].cpu))
			}
			into.put(prefix+"crr_cpu_us_"+short(size), figure.Median(cpu))
			into.put(prefix+"crr_p50_us_"+short(size), figure.Median(latency))
			if prefix != plainPrefix {
				into.put(prefix+"crr_cpu_ratio_"+short(size), figure.Median(ratio))
			}
		}
	}
	return nil
}

// sitting starts all on empty kernels and compares them.
func (p *plan) sitting(ctx context.Context, w *world, size int) (map[string][]cost, error) {
	plain, err := w.newSite("plain")
	if err != nil {
		return nil, err
	}
	lanes := []*lane{{plainPrefix, plain, endpointTargets(size)}}
	var all []*running
	defer func() {
		for _, r := range all {
			r.Kill()
		}
	}()
	for _, c := range p.contenders() {
		if !c.takes(size) {
			continue
		}
		if _, err := w.newSite(c.name); err != nil {
			return nil, err
		}
		r, err := w.run(ctx, c, size)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
		lanes = append(lanes, &lane{c.rules, r.site, serviceTargets(size)})
	}
	if err := w.settle(ctx, all...); err != nil {
		return nil, err
	}
	return p.compare(ctx, lanes)
}

func microseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// endpointTargets are backends themselves; serviceTargets the cluster IPs.
func endpointTargets(size int) (t targets) {
	for i := range size {
		for j := range endpointsEach {
			t = append(t, target(endpoint(i, j), backendPort))
		}
	}
	return t
}

func serviceTargets(size int) (t targets) {
	for i := range size {
		t = append(t, target(clusterIP(i), servicePort))
	}
	return t
}
