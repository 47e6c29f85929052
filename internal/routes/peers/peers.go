package peers

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/rtevent"
	"portico.dev/portico/internal/routes/ruleset"
)

const (
	// settle is how long changes are gathered before something is done: a rollout
	// changes many pods within a few milliseconds.
	settle = 10 * time.Millisecond
	// What can't be made right at once is tried again, ever more rarely.
	firstRetry, lastRetry = time.Second, 30 * time.Second
	// pathLook is how often the MTU of the ways between IPv6 addresses is looked at: the
	// kernel makes no event when a router tells of a smaller one.
	pathLook = 2 * time.Second
)

// Config is what doesn't change while the node runs.
type Config struct {
	Name            string
	PodCIDRs        []netip.Prefix // this node's
	Cluster, Guests []netip.Prefix
	Mode            mesh.Mode
	Port            uint16 // of VXLAN, the same on all nodes
	Log             *slog.Logger

	// Planned, if set, is called with each new plan, once the kernel has what it can
	// take of it, from the goroutine of Run.
	Planned func(mesh.Plan)
	// Guarded, if set, is told once of what keeps the nftables table.
	Guarded func(*ruleset.Keeper) error
}

// Keeper keeps the routes to the other nodes while Run runs.
type Keeper struct {
	cfg     Config
	log     *slog.Logger
	watcher *rtevent.Watcher
	changed chan struct{} // holds one token when there is something to look at

	mu     sync.Mutex // guards the following
	addrs  []netip.Addr
	nodes  []mesh.Node
	guests []mesh.Guest
	known  bool // nodes and guests are
	astray bool // the kernel may have lost something of ours

	// Run's own.
	kernel  kernel
	narrow  map[netip.Addr]mesh.Hop // the narrowest seen of a way that didn't change
	plan    *mesh.Plan              // the last; nil before the first
	said    map[string]string       // of each peer, the ways that were logged
	guard   *ruleset.Keeper         // nil: there are no tunnels yet
	trusted []netip.Addr            // by the guard
	guards  sync.WaitGroup          // the guard's goroutine
}

// New prepares a Keeper for a node with these addresses. Nothing is changed.
func New(cfg Config, addrs []netip.Addr) (*Keeper, error) {
	watcher, err := rtevent.Open() // before the first look, so that nothing is missed
	if err != nil {
		return nil, err
	}
	return &Keeper{cfg: cfg, log: cfg.Log, watcher: watcher, changed: make(chan struct{}, 1), addrs: addrs, kernel: kernel{port: cfg.Port}}, nil
}

// Set hands over all nodes and guests there are. Neither is changed any more.
func (k *Keeper) Set(nodes []mesh.Node, guests []mesh.Guest) {
	k.mu.Lock()
	k.nodes, k.guests, k.known = nodes, guests, true
	k.mu.Unlock()
	k.look()
}

// SetAddresses tells of other addresses of this node.
func (k *Keeper) SetAddresses(addrs []netip.Addr) {
	k.mu.Lock()
	k.addrs = addrs
	k.mu.Unlock()
	k.look()
}

// lookAtAll has the kernel read, too.
func (k *Keeper) lookAtAll() {
	k.mu.Lock()
	k.astray = true
	k.mu.Unlock()
	k.look()
}

func (k *Keeper) look() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// notice picks the events that may mean work. What we write ourselves makes events too:
// these find nothing to do.
func (k *Keeper) notice(e rtevent.Event) {
	if e.Kind == rtevent.Forwarding {
		return
	}
	if e.Kind == rtevent.Route && !e.Removed {
		k.look() // it may be another way to a peer
		return
	}
	k.lookAtAll() // with a link or an address go routes that nobody speaks of
}

// Run keeps the routes until ctx ends, and leaves them then.
func (k *Keeper) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var news sync.WaitGroup
	defer k.guards.Wait()
	defer news.Wait()
	defer stop()
	news.Go(func() {
		if err := k.watcher.Run(ctx, k.notice); err != nil {
			k.log.Error("No more news of links and routes; routes to other nodes that others remove stay away", "error", err)
		}
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	paths := time.NewTicker(pathLook)
	defer paths.Stop()
	pause := settle
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-k.changed:
		case <-paths.C:
			if !k.overIPv6() {
				continue
			}
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if err := k.mend(ctx); err != nil {
			pause = min(max(4*pause, firstRetry), lastRetry)
			k.log.Error("Can't put the routes to other nodes right", "error", err, "retry", pause)
			k.lookAtAll()
			continue
		}
		pause = settle
	}
}

// overIPv6 tells whether packets travel between IPv6 addresses in a tunnel.
func (k *Keeper) overIPv6() bool {
	return k.plan != nil && slices.ContainsFunc(k.plan.Tunnels, func(t mesh.Tunnel) bool { return t.IPv6 })
}

// remember keeps the MTU of a way as narrow as it was once: the kernel forgets after a while
// what a router said (RFC 8201 section 5.3), and packets would be lost each time it does.
func (k *Keeper) remember(hops map[netip.Addr]mesh.Hop) {
	for a, h := range hops {
		was := k.narrow[a]
		if was.Link == h.Link && was.OnLink == h.OnLink && was.LinkMTU == h.LinkMTU && was.MTU < h.MTU {
			hops[a] = was
		}
	}
	k.narrow = hops
}

// mend plans anew and makes the kernel equal to the plan.
func (k *Keeper) mend(ctx context.Context) error {
	k.mu.Lock()
	here := mesh.Here{
		Node:    mesh.Node{Name: k.cfg.Name, Addresses: k.addrs, PodCIDRs: k.cfg.PodCIDRs},
		Cluster: k.cfg.Cluster, Guests: k.cfg.Guests, IPv6: routes.IPv6Enabled(), Mode: k.cfg.Mode,
	}
	nodes, guests, known, astray := k.nodes, k.guests, k.known, k.astray
	k.astray = false
	k.mu.Unlock()
	if !known {
		return nil // what an earlier run knew stays
	}
	var err error
	if here.Hops, err = Hops(nodes); err != nil {
		return err
	}
	k.remember(here.Hops)
	plan := mesh.Make(here, nodes, guests)
	if err := k.protect(ctx, plan); err != nil { // before there are tunnels to protect
		return err
	}
	err = k.kernel.apply(plan, astray)
	if k.plan == nil || !reflect.DeepEqual(plan, *k.plan) {
		k.plan = &plan
		k.say(plan)
		if k.cfg.Planned != nil {
			k.cfg.Planned(plan)
		}
	}
	return err
}

// say logs a changed way to a peer; the routes to each guest would be too much.
func (k *Keeper) say(plan mesh.Plan) {
	said := map[string]string{}
	for _, p := range plan.Peers {
		args := []any{"node", p.Name}
		for _, w := range p.Ways {
			args = append(args, w.Family(), string(w.Kind)+": "+w.Why)
		}
		said[p.Name] = fmt.Sprint(args, p.Problems)
		if said[p.Name] == k.said[p.Name] {
			continue
		}
		k.log.Info("The way to another node", args...)
		for _, problem := range p.Problems {
			k.log.Warn("Another node isn't reached in whole", "node", p.Name, "problem", problem)
		}
	}
	for name := range k.said {
		if said[name] == "" {
			k.log.Info("Another node is gone", "node", name)
		}
	}
	k.said = said
}
