// Command failover measures how long a client waits for a load-balancer address when the
// node that has it is lost, in several ways: with Portico's agent and with MetalLB's
// speaker, in one run. See docs/performance.md for what the figures mean.
//
// Nodes, clients and observers are network namespaces; nothing of the host's network is
// touched, and all is gone with the process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"portico.dev/portico/bench/process"
)

// plan is what is measured, and how often.
type plan struct {
	portico, speaker string // binaries; no peer without the latter
	out, dir         string
	kinds            []string
	times, peerTimes int // losses of each kind
	moves            int // planned ones
	starts           int // of all nodes at once
	many, peerMany   int // losses with many Services
	services         int
	load             time.Duration
}

func main() { process.Main(run) }

func run(ctx context.Context, args []string) error {
	p, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("nodes are network namespaces here, and making those needs root")
	}
	return p.run(ctx)
}

func parse(args []string) (*plan, error) {
	p := &plan{}
	f := flag.NewFlagSet("failover", flag.ContinueOnError)
	f.StringVar(&p.portico, "portico", "bin/portico", "our binary")
	f.StringVar(&p.speaker, "speaker", "", "the peer, MetalLB's speaker; none: only ours is measured")
	f.StringVar(&p.out, "out", "", "file for the figures, in JSON")
	f.StringVar(&p.dir, "dir", os.TempDir(), "where the servers' folders are made")
	names := f.String("kinds", strings.Join(kindNames(), ","), "how nodes are lost")
	f.IntVar(&p.times, "losses", 30, "how often a node is lost in each way")
	f.IntVar(&p.peerTimes, "peer-losses", 4, "the same for the peer, whose addresses need seconds to move")
	f.IntVar(&p.moves, "moves", 10, "how often an agent is stopped, and a node cordoned")
	f.IntVar(&p.starts, "starts", 10, "how often all nodes start at once as for the first time; the peer's at most as often as -peer-losses")
	f.IntVar(&p.many, "many", 3, "how often a node is lost that has very many addresses; 0: never, nor by the peer")
	f.IntVar(&p.peerMany, "peer-many", 1, "the same for the peer")
	f.IntVar(&p.services, "services", 1000, "how many addresses there are then")
	f.DurationVar(&p.load, "load", 10*time.Minute, "how long all processors are busy; 0: never")
	brief := f.Bool("short", false, "ours with few losses, to see that the measurement works")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("%q is no flag", f.Arg(0))
	}
	if *brief {
		if err := abridge(f); err != nil {
			return nil, err
		}
	}
	p.kinds = strings.Split(*names, ",")
	for _, k := range p.kinds {
		if !slices.Contains(kindNames(), k) {
			return nil, fmt.Errorf("-kinds %q is unknown; the kinds are %s", k, strings.Join(kindNames(), ", "))
		}
	}
	if most := 1 << (manyRange.Addr().BitLen() - manyRange.Bits()); p.services < 1 || p.services >= most {
		return nil, fmt.Errorf("-services %d isn't a number from 1 to %d", p.services, most-1)
	}
	return p, nil
}

// abridge gives flags that weren't set the values of the short form.
func abridge(f *flag.FlagSet) error {
	given := map[string]bool{}
	f.Visit(func(one *flag.Flag) { given[one.Name] = true })
	for name, value := range map[string]string{"losses": "2", "peer-losses": "1", "moves": "1", "starts": "1", "many": "1", "services": "50", "load": "5s"} {
		if given[name] {
			continue
		}
		if err := f.Set(name, value); err != nil {
			return fmt.Errorf("set -%s: %w", name, err)
		}
	}
	return nil
}

func (p *plan) run(ctx context.Context) (err error) {
	if p.portico, err = filepath.Abs(p.portico); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(p.dir, "portico-bench-")
	if err != nil {
		return fmt.Errorf("make the servers' folder: %w", err)
	}
	defer os.RemoveAll(dir)
	all, err := p.stages(ctx, dir)
	defer func() {
		for _, s := range all {
			s.close()
		}
	}()
	if err != nil {
		return err
	}
	into := newResults(p)
	if err := p.measure(ctx, dir, all, into); err != nil {
		return errors.Join(err, into.write("")) // what was measured before isn't lost
	}
	return into.write(p.out)
}

// measure does all parts. Losses of both contenders go on at once, each on its own LAN:
// they mostly wait. A peer that fails is left out from then on.
func (p *plan) measure(ctx context.Context, dir string, all []*stage, into *results) error {
	all, err := together(ctx, all, into, func(ctx context.Context, s *stage) error {
		if err := p.losses(ctx, s, p.of(s, p.times, p.peerTimes), into); err != nil {
			return err
		}
		if err := p.firstStarts(ctx, s, p.of(s, p.starts, min(p.starts, p.peerTimes)), into); err != nil {
			return err
		}
		return p.planned(ctx, s, into)
	})
	if err != nil {
		return err
	}
	if p.load > 0 {
		if err := p.underLoad(ctx, dir, all, into); err != nil {
			return err
		}
	}
	if p.many == 0 {
		return nil
	}
	into.progress("making %d Services", p.services)
	if all, err = together(ctx, all, into, func(ctx context.Context, s *stage) error { return s.makeServices(ctx, p.services) }); err != nil {
		return err
	}
	for i := range all { // one after the other: a thousand addresses are work
		if _, err := together(ctx, all[i:i+1], into, func(ctx context.Context, s *stage) error {
			return p.manyAddresses(ctx, s, p.of(s, p.many, p.peerMany), into)
		}); err != nil {
			return err
		}
	}
	return nil
}

// of gives the number that is a contender's.
func (p *plan) of(s *stage, ours, peers int) int {
	if s.prefix() == "" {
		return ours
	}
	return peers
}

// together does the same on all stages at once, and gives those that go on: the peer's
// failure is noted, ours ends the run.
func together(ctx context.Context, all []*stage, into *results, do func(context.Context, *stage) error) ([]*stage, error) {
	errs := make([]error, len(all))
	var group sync.WaitGroup
	for i, s := range all {
		group.Go(func() { errs[i] = do(ctx, s) })
	}
	group.Wait()
	var left []*stage
	for i, s := range all {
		switch {
		case errs[i] == nil:
			left = append(left, s)
		case s.prefix() == "" || ctx.Err() != nil:
			return nil, errs[i]
		default:
			into.note(errs[i].Error())
			into.progress("%v", errs[i])
		}
	}
	return left, nil
}
