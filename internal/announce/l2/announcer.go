package l2

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"portico.dev/portico/internal/announce/greet"
	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/election"
	"portico.dev/portico/internal/routes/rtevent"
)

// Config is what an Announcer needs.
type Config struct {
	Self string
	Mesh *greet.Mesh // the Announcer runs it
	// Skip are the beginnings of names of links that are the node's own works.
	Skip []string
	// Store remembers over restarts; nil: nothing does.
	Store *Store
	// Event tells people of a Service's move; nil: nobody.
	Event func(s *announcing.Service, reason, message string)
	// Status writes what this node announces into the API; nil: nobody does.
	Status *statuses.Writer // of ServiceL2Status
	Log    *slog.Logger
}

const (
	// patience is how long an elected node may leave an address to nobody before the next
	// one takes it: that node may see something that it doesn't.
	patience = time.Second
	// handOver is how long a stopping agent waits for others to take its addresses.
	handOver = 2 * time.Second
	// gathering is how long a node that has just become ready, or has a link again, leaves
	// alone what nobody seems to have while a peer is missing: when all start together
	// each would elect itself, and behind a link that was down somebody may have it.
	gathering = 500 * time.Millisecond
	// founding is the same for an address that nobody was ever heard to have. Where all
	// start for the first time, who is greeted depends on the API, which tells of new Nodes
	// late: each agent knows those that are older than its own Node, so of any two at least
	// one knows whom to wait for. Nobody's connections hang on such an address.
	founding = 3 * time.Second
	// resumption is how long what a restart found in the store is kept without the API.
	resumption = 10 * time.Second
)

// Announcer is the part of announce that speaks ARP and NDP.
type Announcer struct {
	config Config
	wake   chan struct{} // capacity 1: there is an input

	leave, left         chan struct{} // closed by Leave, and when others have what they can take
	leaveOnce, leftOnce sync.Once

	conflicts chan conflict
	held      atomic.Pointer[map[netip.Addr][]string] // what is answered for, and on which links
	counts    counters

	mu       sync.Mutex // guards the following
	input    *announcing.Input
	contests []election.Contest // of the last decision
	mine     map[netip.Addr]*holding
	others   map[netip.Addr][]seen

	// Of the goroutine of Run alone, once it runs.
	links     map[string]*link
	regroup   bool // a link is new
	restate   bool // the input is new, or what is held
	leaving   bool
	terms     map[netip.Addr]uint64        // the highest seen
	unclaimed map[netip.Addr]time.Duration // since when nobody took it
	said      greet.Word
	begun     time.Duration
	arrived   time.Duration // when this node became ready, or got a link: it may not have heard all
}

// holding is an address that this node holds.
type holding struct {
	greet.Claim
	from  string // the former holder; empty: none
	why   string
	links []string
	// Announcements: the step of the burst, and when the next one is.
	step int
	next time.Duration
	told time.Duration // a conflict
}

// seen is another node's claim.
type seen struct {
	node  string
	alive bool
	claim greet.Claim
}

// New makes an Announcer, which knows what the run before it held.
func New(config Config) *Announcer {
	a := &Announcer{
		config: config, wake: make(chan struct{}, 1), leave: make(chan struct{}), left: make(chan struct{}), conflicts: make(chan conflict, 64),
		mine: map[netip.Addr]*holding{}, links: map[string]*link{}, counts: newCounters(), terms: map[netip.Addr]uint64{}, unclaimed: map[netip.Addr]time.Duration{},
	}
	a.held.Store(&map[netip.Addr][]string{})
	a.begun = config.Mesh.Now()
	if config.Store != nil {
		a.restore()
	}
	return a
}

// restore takes what the run before held, and greets those whom it knew, before the API
// was asked: a restart that is quick enough goes unnoticed.
func (a *Announcer) restore() {
	was, ok, err := a.config.Store.load()
	if err != nil {
		a.config.Log.Warn("What this node announced before isn't known", "error", err)
	}
	if !ok {
		return
	}
	for _, c := range was.Claims {
		a.mine[c.Address] = &holding{Claim: c, why: "held before the agent's restart", next: a.begun}
		a.terms[c.Address] = c.Term
	}
	a.config.Mesh.SetKeys(was.Keys...)
	a.config.Mesh.SetPeers(was.Peers)
}

// SetKeys takes the cluster's keys of greetings, the one that signs first.
func (a *Announcer) SetKeys(keys [][]byte) {
	a.config.Mesh.SetKeys(keys...)
	if a.config.Store != nil {
		a.config.Store.setKeys(keys)
	}
}

// Set implements announce.Part.
func (a *Announcer) Set(in announcing.Input) {
	a.mu.Lock()
	a.input = &in
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run announces until ctx ends, then hands over what it holds, which takes two seconds at
// most, and falls silent.
func (a *Announcer) Run(ctx context.Context) (err error) {
	links, err := rtevent.Open()
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	defer func() {
		stop()
		group.Wait()
		for _, l := range a.links {
			l.close()
		}
	}()
	failed := make(chan error, 4)
	moved := make(chan struct{}, 1)
	start := func(f func() error) { group.Go(func() { failed <- f() }) }
	start(func() error { return a.config.Mesh.Run(work) })
	start(func() error {
		return links.Run(work, func(e rtevent.Event) {
			if e.Kind == rtevent.Link || e.Kind == rtevent.Addr || e.Kind == rtevent.Lost {
				poke(moved)
			}
		})
	})
	if a.config.Store != nil {
		start(func() error { return a.config.Store.run(work, a.config.Log) })
	}
	if a.config.Status != nil {
		start(func() error { return a.config.Status.Run(work) })
	}
	a.followLinks()
	return a.loop(ctx, moved, failed)
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Leave hands over what other nodes can take, for a node that leaves for good: it takes
// nothing any more, and goes on answering for what nobody else can have until its agent
// stops. It returns when others have the addresses, at the latest after two seconds.
func (a *Announcer) Leave(ctx context.Context) error {
	a.leaveOnce.Do(func() { close(a.leave) })
	select {
	case <-a.left:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hand load-balancer addresses over: %w", ctx.Err())
	}
}

func (a *Announcer) loop(ctx context.Context, moved <-chan struct{}, failed <-chan error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	stopping, leave, deadline, due := ctx.Done(), a.leave, time.Duration(0), time.Duration(0)
	for {
		select {
		case <-stopping:
			stopping, deadline = nil, a.depart(deadline)
		case <-leave:
			leave, deadline = nil, a.depart(deadline)
		case <-a.wake:
			a.followInput()
		case <-moved:
			a.followLinks()
		case <-a.config.Mesh.Changed():
		case c := <-a.conflicts:
			a.judge(c)
		case err := <-failed:
			if err != nil {
				return err
			}
		case <-timer.C:
			if a.config.Mesh.Now() < due {
				timer.Reset(a.pause(due))
				continue
			}
		}
		due = a.decide()
		switch {
		case !a.leaving:
		case a.nothingToHandOver() || a.config.Mesh.Now() >= deadline:
			if stopping == nil {
				return nil
			}
			a.leftOnce.Do(func() { close(a.left) })
		default:
			due = min(due, deadline)
		}
		timer.Reset(a.pause(due))
	}
}

// depart begins to hand over, and gives until when others are waited for.
func (a *Announcer) depart(deadline time.Duration) time.Duration {
	if a.leaving {
		return deadline
	}
	a.leaving = true
	return a.config.Mesh.Now() + handOver
}

// pause sends the announcements that are due, and gives the time until the next of them or
// until a decision is due: those cost more.
func (a *Announcer) pause(due time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.config.Mesh.Now()
	return max(min(a.announce(now), due)-now, time.Millisecond)
}

// followInput has greetings go to the nodes that there are, at the pace that there is need of.
func (a *Announcer) followInput() {
	a.mu.Lock()
	in := a.input
	a.mu.Unlock()
	var peers []greet.Peer
	for _, n := range in.Nodes {
		if n.Name != a.config.Self {
			peers = append(peers, greet.Peer{Name: n.Name, Addresses: n.Addresses})
		}
	}
	a.restate = true
	a.config.Mesh.SetPeers(peers)
	if a.config.Store != nil {
		a.config.Store.setPeers(peers)
	}
}

// followLinks opens and closes sockets as links come and go.
func (a *Announcer) followLinks() {
	found, err := scan(a.config.Skip)
	if err != nil {
		a.config.Log.Warn("The host's links can't be listed; addresses are announced on those known", "error", err)
		return
	}
	there := map[string]bool{}
	for _, i := range found {
		there[i.name] = true
		if l := a.links[i.name]; l != nil {
			if l.iface == i {
				continue
			}
			l.close()
			delete(a.links, i.name)
		}
		l, err := openLink(i, a, a.config.Log)
		if err != nil {
			a.config.Log.Warn("Addresses aren't announced on a link", "link", i.name, "error", err)
			continue
		}
		a.links[i.name], a.regroup, a.arrived = l, true, a.config.Mesh.Now()
		a.renew() // neighbours there know nothing, or the old hardware address
	}
	for name, l := range a.links {
		if !there[name] {
			l.close()
			delete(a.links, name)
		}
	}
}

// renew begins the burst of announcements of all addresses anew.
func (a *Announcer) renew() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.mine {
		h.step, h.next = 0, a.config.Mesh.Now()
	}
}

func (a *Announcer) linkNames() []string { return slices.Sorted(maps.Keys(a.links)) }

// say tells the peers what is held, where it is news.
func (a *Announcer) say(ready bool) {
	w := greet.Word{Ready: ready, Leaving: a.leaving}
	for _, name := range a.linkNames() {
		w.Links = append(w.Links, greet.Link{Name: name, MAC: a.links[name].mac})
	}
	for _, addr := range slices.SortedFunc(maps.Keys(a.mine), netip.Addr.Compare) {
		w.Claims = append(w.Claims, a.mine[addr].Claim)
	}
	if w.Ready == a.said.Ready && w.Leaving == a.said.Leaving && slices.Equal(w.Links, a.said.Links) && slices.Equal(w.Claims, a.said.Claims) {
		return
	}
	a.said = w
	a.config.Mesh.Say(w)
	if a.config.Store != nil {
		a.config.Store.setClaims(w.Claims)
	}
}

// holds implements responder.
func (a *Announcer) holds(addr netip.Addr, link string) bool {
	return slices.Contains((*a.held.Load())[addr], link) && a.config.Mesh.Fit()
}

// answered implements responder.
func (a *Announcer) answered(ipv6 bool) {
	if ipv6 {
		a.counts.solicitations.Add(1)
	} else {
		a.counts.requests.Add(1)
	}
}

// event tells people, on each Service that has the address.
func (a *Announcer) event(c *election.Contest, reason, format string, args ...any) {
	if a.config.Event == nil || c == nil {
		return
	}
	for _, s := range c.Services {
		a.config.Event(s, reason, fmt.Sprintf(format, args...))
	}
}
