// Command dataplane measures what Services cost on a node: Portico's agent, kube-proxy in
// its nftables and iptables modes, and plain routing, by turns in one run and on the same
// objects of one API. See docs/performance.md for what the figures mean.
//
// It runs in a network and a mount namespace of its own and makes further ones for nodes,
// clients and backends; nothing of the host's network is touched, and all is gone with
// the process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"portico.dev/portico/bench/process"
)

// insideCommand makes this program the one that measures, in namespaces of its own.
const insideCommand = "inside"

// Parts of a run.
const (
	partCRR     = "crr"
	partProgram = "program"
	partLatency = "latency"
	partMemory  = "memory"
	partRestart = "restart"

	partIptables  = "iptables"  // starts, changes and memory in that mode
	partUserspace = "userspace" // starts, changes and what it carries
	partIpvs      = "ipvs"      // starts and changes in that mode, in guests
)

var parts = []string{partCRR, partProgram, partLatency, partMemory, partRestart, partIptables, partUserspace, partIpvs}

// plan is what is measured, and how often.
type plan struct {
	portico, kubeproxy string // binaries; no peer without the latter
	guestBuilder       string // a program that makes guests; none: no ipvs
	guestImage         string // what it made
	out, dir           string
	only               []string
	modes              []string // of the peer
	sizes              []int    // how many Services
	latencySizes       []int    // those of sizes at which starts, changes and memory are measured
	peerMost           int      // Services that the peer is given
	ipvsPeerMost       int      // in a guest
	iptablesAt         int      // the one size at which other parts measure the iptables mode
	iptables           bool     // this is the part that measures all in the iptables mode

	programRounds     int // starts on an empty kernel
	sittings          int // in which connections are measured
	crrRounds         int // of each sitting
	connections       int // of each round
	changes           int // of one endpoint, that are timed
	churn, idle, look time.Duration
	stream            time.Duration // how long each sends
	restarts, clients int
}

func main() { process.Main(run) }

func run(ctx context.Context, args []string) error {
	if len(args) == 3 && args[0] == plainCommand {
		return plainProxy(args[1], args[2])
	}
	if len(args) == 1 && args[0] == guestCommand {
		return guest()
	}
	if len(args) > 0 && args[0] == insideCommand {
		p, err := parse(args[1:])
		if err != nil {
			return err
		}
		return p.run(ctx)
	}
	p, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("nodes are network namespaces here, and making those needs root")
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if p.guestBuilder != "" && p.does(partIpvs) { // here, where there is a way to Debian's packages
		image, err := os.MkdirTemp(p.dir, "portico-guest-")
		if err != nil {
			return fmt.Errorf("make the guest's folder: %w", err)
		}
		defer os.RemoveAll(image)
		if err := p.buildGuest(ctx, image); err != nil {
			return err
		}
		args = append(args, "-guest-image", image)
	}
	cmd := exec.CommandContext(ctx, self, append([]string{insideCommand}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("measure in namespaces of its own: %w", err)
	}
	return nil
}

func parse(args []string) (*plan, error) {
	p := &plan{}
	f := flag.NewFlagSet("dataplane", flag.ContinueOnError)
	f.StringVar(&p.portico, "portico", "bin/portico", "our binary")
	f.StringVar(&p.kubeproxy, "kube-proxy", "", "the peer; none: only ours and plain routing are measured")
	f.StringVar(&p.out, "out", "", "file for the figures, in JSON")
	f.StringVar(&p.dir, "dir", os.TempDir(), "where the servers' folders are made")
	f.StringVar(&p.guestBuilder, "guest-builder", "", "a program that makes guests; none: the ipvs mode is left out")
	f.IntVar(&p.ipvsPeerMost, "ipvs-peer-most", 1000, "how many Services the peer is given in a guest: with an emulated processor it takes minutes for each change among 10,000")
	f.StringVar(&p.guestImage, "guest-image", "", "what it made, for this program alone")
	only := f.String("only", strings.Join(parts, ","), "parts to measure")
	modes := f.String("modes", "nftables,iptables", "modes of the peer")
	sizes := f.String("services", "10,1000,10000,30000", "how many Services, growing")
	f.IntVar(&p.programRounds, "rounds", 3, "how often each is started on an empty kernel")
	f.IntVar(&p.sittings, "sittings", 5, "how often all start anew to have their connections measured")
	f.IntVar(&p.crrRounds, "crr-rounds", 21, "how often each connects by turns, in each sitting")
	f.IntVar(&p.connections, "connections", 2000, "how many connections a round makes")
	f.IntVar(&p.changes, "changes", 200, "how many changes of an endpoint are timed; the peer gets less where it is slow")
	f.DurationVar(&p.churn, "churn", 20*time.Second, "how long changes come at 100 a second; the peer gets twice that where it is slow")
	f.DurationVar(&p.idle, "idle", 15*time.Second, "how long an agent is left alone before its memory is read")
	f.DurationVar(&p.stream, "stream", 2*time.Second, "how long a stream is sent, seven times each way")
	f.IntVar(&p.restarts, "restarts", 10, "how often each is killed and started again under connections")
	f.DurationVar(&p.look, "look", time.Second, "how long servers must be quiet, three times, before a measurement begins")
	brief := f.Bool("short", false, "ours and plain routing with few Services, to see that the measurement works")
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
	p.clients, p.peerMost, p.iptablesAt = 4, 10_000, 10_000
	p.only, p.modes = strings.Split(*only, ","), strings.Split(*modes, ",")
	for _, part := range p.only {
		if !slices.Contains(parts, part) {
			return nil, fmt.Errorf("-only %q is unknown; the parts are %s", part, strings.Join(parts, ", "))
		}
	}
	for _, mode := range p.modes {
		if mode != modeNftables && mode != modeIptables {
			return nil, fmt.Errorf("-modes %q is unknown; the modes are %s and %s", mode, modeNftables, modeIptables)
		}
	}
	return p, p.readSizes(*sizes, *brief)
}

// abridge gives flags that weren't set the values of the short form.
func abridge(f *flag.FlagSet) error {
	given := map[string]bool{}
	f.Visit(func(one *flag.Flag) { given[one.Name] = true })
	for name, value := range map[string]string{
		"services": "10,200", "rounds": "1", "sittings": "2", "crr-rounds": "3", "connections": "300", "changes": "20", "churn": "1s", "idle": "1s", "look": "200ms", "stream": "100ms", "restarts": "2",
	} {
		if given[name] {
			continue
		}
		if err := f.Set(name, value); err != nil {
			return fmt.Errorf("set -%s: %w", name, err)
		}
	}
	return nil
}

// maxServices keeps addresses within the ranges of objects.go.
const maxServices = 100_000

func (p *plan) readSizes(list string, brief bool) error {
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxServices {
			return fmt.Errorf("-services %q isn't a number from 1 to %d", s, maxServices)
		}
		if len(p.sizes) > 0 && n <= p.sizes[len(p.sizes)-1] {
			return fmt.Errorf("-services %s: the numbers must grow", list)
		}
		p.sizes = append(p.sizes, n)
		if n >= 1000 && n <= p.peerMost || brief && n > 10 {
			p.latencySizes = append(p.latencySizes, n)
		}
	}
	if p.programRounds < 1 || p.sittings < 1 || p.crrRounds < 1 || p.connections < 1 || p.changes < 1 || p.restarts < 1 {
		return errors.New("wanted: one of each, at least")
	}
	return nil
}

func (p *plan) does(part string) bool { return slices.Contains(p.only, part) }
