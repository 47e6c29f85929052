package routes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"portico.dev/portico/internal/routes/rtevent"
	"portico.dev/portico/internal/routes/ruleset"
	"portico.dev/portico/internal/routes/sysctl"
)

// settle is how long changes are gathered before the kernel is looked at: a guest
// that starts makes some dozens of events within a few milliseconds.
const settle = 10 * time.Millisecond

// Network is a node's own network, kept as it should be until Close.
type Network struct {
	cfg     Config
	log     *slog.Logger
	ipv6    bool
	journal *sysctl.Journal
	watcher *rtevent.Watcher
	keeper  *ruleset.Keeper
	stop    context.CancelFunc
	done    sync.WaitGroup
	changed chan struct{} // holds one token when there is something to look at

	mu       sync.Mutex     // guards the following, and the kernel's state against two writers
	bridge   int            // index of portico0
	services []netip.Prefix // ranges of cluster IPs; replaced, never changed
	told     bool           // services are the API's, and no longer Config's
	written  ruled          // what the nftables table is made from
}

// Setup makes the node's network, or adopts the one a previous run left, and keeps
// it until Close. On an error nothing keeps running, and Teardown removes what was
// made.
func Setup(ctx context.Context, cfg Config) (*Network, error) {
	if err := checkPodCIDRs(cfg); err != nil {
		return nil, err
	}
	journal, err := openJournal(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	watcher, err := rtevent.Open() // before the first look, so that nothing is missed
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	n := &Network{
		cfg: cfg, log: cfg.Log, ipv6: IPv6Enabled(), journal: journal, watcher: watcher, stop: stop,
		changed: make(chan struct{}, 1), services: cfg.Services,
	}
	n.done.Go(func() {
		if err := watcher.Run(run, n.notice); err != nil {
			n.log.Error("No more news of links and routes; changes by others are not mended", "error", err)
		}
	})
	if err := n.ensure(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	n.keeper, err = ruleset.Keep(n.table(), n.log)
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	n.done.Go(func() {
		if err := n.keeper.Run(run); err != nil {
			n.log.Error("No more news of nftables; changes by others are not mended", "error", err)
		}
	})
	n.done.Go(func() { n.keep(run) })
	return n, nil
}

// Close stops keeping the network and leaves it as it is: guests go on.
func (n *Network) Close() error {
	n.stop()
	n.done.Wait()
	return nil
}

// Keeper keeps the network's nftables table.
func (n *Network) Keeper() *ruleset.Keeper { return n.keeper }

// IPv6 tells whether this host has IPv6; without it everything is IPv4 only.
func (n *Network) IPv6() bool { return n.ipv6 }

// Own gives the node's own address in its pod range of a family; it is invalid
// when there is none. The DNS server and the API's second listener bind to it, and
// it is the source of what the node sends to guests and Services.
func (n *Network) Own(ipv6 bool) netip.Addr {
	p := family(n.cfg.PodCIDRs, ipv6)
	if !p.IsValid() || ipv6 && !n.ipv6 {
		return netip.Addr{}
	}
	return own(p)
}

// OwnAddresses gives the addresses of which Own gives one, for a node that has the pod
// ranges.
func OwnAddresses(podCIDRs []netip.Prefix) (out []netip.Addr) {
	n := &Network{cfg: Config{PodCIDRs: podCIDRs}, ipv6: IPv6Enabled()}
	for _, ipv6 := range []bool{false, true} {
		if a := n.Own(ipv6); a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// notice picks the events that may mean work. What ensure does itself makes
// events too; these find nothing to do, so it ends there.
func (n *Network) notice(e rtevent.Event) {
	n.mu.Lock()
	bridge := n.bridge
	n.mu.Unlock()
	switch e.Kind {
	case rtevent.Route: // other routes than ours come and go all the time
		if !e.Removed || e.Index != bridge && e.Index > 1 {
			// Index 0 or 1: routes that lead nowhere stand on lo, or on no link.
			return
		}
	case rtevent.Addr:
		if !e.Removed && e.Index == bridge {
			return
		}
	}
	n.look()
}

// look has keep look at everything soon.
func (n *Network) look() {
	select {
	case n.changed <- struct{}{}:
	default:
	}
}

// keep mends until ctx ends, and what it can't at once again and again.
func (n *Network) keep(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	pause := settle
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.changed:
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := n.mend(); err != nil {
			pause = min(max(4*pause, time.Second), 30*time.Second)
			n.log.Error("Can't put the node's network right", "error", err, "retry", pause)
			n.look()
			continue
		}
		pause = settle
	}
}

func (n *Network) mend() error {
	if err := n.ensure(); err != nil {
		return err
	}
	n.mu.Lock()
	same := n.written.equal(n.ruledLocked())
	n.mu.Unlock()
	if same {
		return nil
	}
	return n.keeper.Replace(n.table())
}

// ensure makes links, addresses, routes and switches what they should be.
func (n *Network) ensure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ensureBridge(); err != nil {
		return err
	}
	if err := n.ensureRoutes(); err != nil {
		return err
	}
	return n.ensureForwarding()
}

func checkPodCIDRs(cfg Config) error {
	if len(cfg.PodCIDRs) == 0 {
		return errors.New("this node has no pod range (Node.spec.podCIDRs); the controllers give it one")
	}
	if err := checkList("podCIDRs", cfg.PodCIDRs); err != nil {
		return err
	}
	for _, p := range cfg.PodCIDRs {
		if c := family(cfg.Cluster, p.Addr().Is6()); !c.IsValid() || !c.Contains(p.Addr()) || p.Bits() < c.Bits() {
			return fmt.Errorf("this node's pod range %s is not inside --cluster-cidr %v; were the flags changed? delete the Node object to get another", p, cfg.Cluster)
		}
	}
	return nil
}

func openJournal(stateDir string) (*sysctl.Journal, error) {
	return sysctl.OpenJournal(filepath.Join(stateDir, "sysctls.json"))
}
