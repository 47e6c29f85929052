// Command dns measures Portico's DNS server against CoreDNS with its kubernetes plugin:
// both on the objects of one API, one after the other, several times, under the same
// load from dnsperf; and against a program that only sends back what it gets. See
// docs/performance.md for what the figures mean.
package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"portico.dev/portico/bench/process"
)

// plan is what is measured, and how often.
type plan struct {
	process.Plan
	coredns  string        // a binary; none: no peer
	sizes    []int         // how many Services, in growing order
	duration time.Duration // of each load
	rate     int           // queries per second at which the waiting is measured
	news     int           // Services whose way into the answers is timed
	idle     time.Duration // before memory is read
	look     time.Duration // for so long servers must be quiet, some times, before a measurement
}

func main() { process.Main(run) }

func run(ctx context.Context, args []string) error {
	if len(args) == 2 && args[0] == echoCommand {
		return echo(ctx, args[1])
	}
	p, err := parse(args)
	if err != nil {
		return err
	}
	if _, err := exec.LookPath("dnsperf"); err != nil {
		return errors.New("dnsperf, which makes the load, is not installed; run `apt-get install --no-install-recommends dnsperf`")
	}
	return p.run(ctx)
}

func parse(args []string) (*plan, error) {
	p := &plan{rate: 5000}
	f := p.Flags("dns")
	f.StringVar(&p.coredns, "coredns", "", "the peer; none: only ours is measured")
	sizes := f.String("services", "1000,10000", "how many Services, in growing order")
	f.DurationVar(&p.duration, "duration", 5*time.Second, "how long each load lasts")
	f.IntVar(&p.news, "news", 200, "Services whose way from the watch into the answers is timed")
	f.DurationVar(&p.idle, "idle", 3*time.Second, "how long a server is left alone before its memory is read")
	f.DurationVar(&p.look, "look", time.Second, "how long servers must be quiet, three times, before a measurement begins")
	if err := process.Parse(f, args); err != nil {
		return nil, err
	}
	if p.Short {
		p.coredns, *sizes, p.Rounds, p.duration, p.news, p.idle, p.look = "", "200", 1, time.Second, 10, time.Second, 200*time.Millisecond
	}
	for _, text := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < headlessServices || len(p.sizes) > 0 && n <= p.sizes[len(p.sizes)-1] {
			return nil, fmt.Errorf("-services %q: wanted are growing numbers from %d on, like 1000,10000", *sizes, headlessServices)
		}
		p.sizes = append(p.sizes, n)
	}
	if p.Rounds < 1 || p.duration < time.Second || p.news < 1 || p.look <= 0 {
		return nil, errors.New("wanted: a round, a second of load, a new Service, and a time to look, at least")
	}
	return p, nil
}
