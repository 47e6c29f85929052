package userspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/tracked"
)

const (
	protocolTCP = catalog.TCP
	protocolUDP = catalog.UDP
)

// Config is what the proxy must know of the node's network.
type Config struct {
	// Workloads are the cluster's ranges of pods and guests: a source in them is a
	// workload, or this node's by Addresses.
	Workloads []netip.Prefix
	// Addresses are this node's on portico0, one per family: the sockets listen there.
	// A family without one isn't served.
	Addresses []netip.Addr
	// Direct changes no rule, which takes privileges: sockets listen at the very addresses
	// and ports of Services that this host has itself, and Addresses aren't used.
	Direct bool
	Logger *slog.Logger
	// Enter runs what opens a socket where the sockets belong; nil: in the calling
	// thread's network namespace.
	Enter func(func() error) error
}

// Backend is the data plane in this process. It implements dataplane.Backend.
type Backend struct {
	cfg       Config
	log       *slog.Logger
	listeners []*net.TCPListener   // where rules lead to, one per family
	rules     *rules               // nil: direct
	doors     *doors               // nil: there are rules
	fresh     map[routing.Key]bool // UDP frontends since the last Finish
	room      *room
	pipes     pipes
	idle      *idle
	total     meter
	flows     atomic.Int64 // of UDP
	group     sync.WaitGroup
	life      context.Context // until Close
	end       context.CancelFunc

	mu       sync.Mutex // guards the following
	closed   bool
	fronts   map[routing.Key]*front
	nodes    map[netip.Addr]bool
	own      map[netip.Addr]bool // this host's addresses; direct only
	turns    map[port]*turn
	pods     map[netip.Addr]int                   // backends' addresses, with how often fronts have each
	sessions map[netip.AddrPort]map[*session]bool // by backend
	proxies  map[netip.AddrPort]bool              // the sockets of udpProxies
}

var _ dataplane.Backend = (*Backend)(nil)

// New opens the sockets that everything is led to. It changes no rule.
func New(cfg Config) (*Backend, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Backend{
		cfg: cfg, log: cfg.Logger, fresh: map[routing.Key]bool{},
		fronts: map[routing.Key]*front{}, nodes: map[netip.Addr]bool{},
		turns: map[port]*turn{}, pods: map[netip.Addr]int{}, sessions: map[netip.AddrPort]map[*session]bool{}, proxies: map[netip.AddrPort]bool{},
	}
	b.life, b.end = context.WithCancel(context.Background())
	if err := b.enter(b.open); err != nil {
		return nil, errors.Join(fmt.Errorf("userspace data plane: %w", err), b.Close())
	}
	b.begin(func() {
		if err := b.idle.run(func(d *direction) { b.group.Go(d.carry) }); err != nil {
			b.log.Error("Idle connections are no longer served", "error", err)
		}
	})
	for _, l := range b.listeners {
		b.begin(func() { b.accept(l, originalDestination) })
	}
	if b.doors != nil {
		b.begin(b.doors.run)
	}
	return b, nil
}

func (b *Backend) open() (err error) {
	if b.room, err = newRoom(b.log); err != nil {
		return err
	}
	if b.idle, err = newIdle(); err != nil {
		return err
	}
	if b.cfg.Direct {
		b.doors, err = openDoors(b)
		return err
	}
	if len(b.cfg.Addresses) == 0 {
		return errors.New("this node has no address of its own to listen on")
	}
	doors := [2]door{}
	for _, a := range b.cfg.Addresses {
		l, err := listenTCP(netip.AddrPortFrom(a, 0))
		if err != nil {
			return fmt.Errorf("listen on %s: %w", a, err)
		}
		b.listeners = append(b.listeners, l)
		doors[family(a)] = door{a, addrPort(l.Addr()).Port()}
	}
	b.rules, err = openRules(doors, b.cfg.Workloads)
	return err
}

// enter runs f where sockets belong.
func (b *Backend) enter(f func() error) error {
	if b.cfg.Enter == nil {
		return f()
	}
	return b.cfg.Enter(f)
}

// begin runs f until it ends; false when the backend is being closed.
func (b *Backend) begin(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.group.Go(f)
	return true
}

func family(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// origin tells where a client is.
func (b *Backend) origin(client netip.Addr) routing.Origin {
	b.mu.Lock()
	here := b.nodes[client] || b.own[client]
	b.mu.Unlock()
	if here || client.IsLoopback() || slices.Contains(b.cfg.Addresses, client) {
		return routing.Node
	}
	for _, p := range b.cfg.Workloads {
		if p.Contains(client) {
			return routing.Workload
		}
	}
	return routing.Outside
}

// find gives the frontend that a destination belongs to.
func (b *Backend) find(to netip.AddrPort, protocol catalog.Protocol) *front {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.fronts[routing.Key{Addr: to.Addr(), Protocol: protocol, Port: to.Port()}]; f != nil {
		return f
	}
	if !b.nodes[to.Addr()] {
		return nil
	}
	return b.fronts[routing.Key{Addr: unspecified(to.Addr()), Protocol: protocol, Port: to.Port()}]
}

// unspecified stands for all of the node's addresses of a's family in keys.
func unspecified(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// Sync implements dataplane.Backend: the rules are replaced in one transaction, and the
// sockets of before go on.
func (b *Backend) Sync(_ context.Context, state dataplane.State) error {
	b.setNodes(state.NodeAddresses)
	change := routing.Change{Set: state.Frontends}
	wanted := map[routing.Key]bool{}
	for _, f := range state.Frontends {
		wanted[f.Key] = true
	}
	b.mu.Lock()
	for key := range b.fronts {
		if !wanted[key] {
			change.Removed = append(change.Removed, key)
		}
	}
	b.mu.Unlock()
	if err := b.take(change.Set); err != nil {
		return err
	}
	if b.doors != nil {
		b.leave(change.Removed)
		b.doors.look()
		return nil
	}
	if err := b.rules.replace(b.entriesOf(change.Set), state.NodeAddresses, state.ServiceRanges); err != nil {
		return err
	}
	b.leave(change.Removed)
	return nil
}

// Apply implements dataplane.Backend.
func (b *Backend) Apply(_ context.Context, change routing.Change) error {
	if err := b.take(change.Set); err != nil {
		return err
	}
	if b.doors != nil {
		b.leave(change.Removed)
		b.doors.change(change)
		return nil
	}
	if err := b.rules.change(b.entriesOf(change.Set), change.Removed); err != nil {
		return err
	}
	b.leave(change.Removed)
	return nil
}

// take has the sockets know frontends, before rules lead to them.
func (b *Backend) take(frontends []*routing.Frontend) error {
	for _, f := range frontends {
		b.mu.Lock()
		known := b.fronts[f.Key]
		b.mu.Unlock()
		if known != nil && known.turn != b.turnOf(f) { // another Service has it now
			b.leave([]routing.Key{f.Key})
			known = nil
		}
		if known == nil {
			if err := b.add(f); err != nil {
				return err
			}
			continue
		}
		before := known.get()
		known.set(f)
		b.count(f, +1)
		b.count(before, -1)
		b.endSessions(before)
		if known.udp != nil {
			known.udp.review()
		}
		if b.doors != nil {
			b.doors.review(known)
		}
	}
	return nil
}

// choices gives the backends for a new client of a frontend, the first to be tried first;
// none where it isn't served.
func (b *Backend) choices(f *front, client netip.Addr) []netip.AddrPort {
	// Where there are rules those know who may come (DP-14).
	if b.doors != nil {
		b.mu.Lock()
		admitted := sourcesOf(f.get(), b.nodes)
		b.mu.Unlock()
		if len(admitted) > 0 && !slices.ContainsFunc(admitted, func(p netip.Prefix) bool { return p.Contains(client) }) {
			return nil
		}
	}
	return f.choices(client, b.origin(client), time.Now())
}

// turnOf gives the turn that a frontend shares; nil when it has none yet.
func (b *Backend) turnOf(f *routing.Frontend) *turn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.turns[portOf(f)]
}

func (b *Backend) count(f *routing.Frontend, by int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for one := range f.Backends() {
		if b.pods[one.Addr()] += by; b.pods[one.Addr()] == 0 {
			delete(b.pods, one.Addr())
		}
	}
}

func (b *Backend) add(f *routing.Frontend) (err error) {
	out := &front{frontend: f}
	if f.Protocol == protocolUDP && b.rules != nil {
		b.fresh[f.Key] = true
		if own := b.rules.doors[family(f.Addr)].addr; own.IsValid() {
			if out.udp, err = b.openUDP(out, netip.AddrPortFrom(own, 0)); err != nil {
				return fmt.Errorf("open a socket for %s of %s: %w", f.Key, f.Service, err)
			}
		}
	}
	b.mu.Lock()
	t := b.turns[portOf(f)]
	if t == nil {
		t = &turn{}
		b.turns[portOf(f)] = t
	}
	t.users++
	out.turn = t
	b.fronts[f.Key] = out
	b.mu.Unlock()
	b.count(f, +1)
	if out.udp != nil && !b.begin(out.udp.serve) {
		out.udp.close()
		return net.ErrClosed
	}
	return nil
}

// leave forgets frontends to which no rule leads any more. TCP connections through them go
// on.
func (b *Backend) leave(keys []routing.Key) {
	for _, key := range keys {
		b.mu.Lock()
		f := b.fronts[key]
		delete(b.fronts, key)
		if f != nil {
			if f.turn.users--; f.turn.users == 0 {
				delete(b.turns, portOf(f.get()))
			}
		}
		b.mu.Unlock()
		if f == nil {
			continue
		}
		b.count(f.get(), -1)
		b.endSessions(f.get())
		if f.udp != nil {
			f.udp.close()
		}
	}
}

// Finish implements dataplane.Backend. Flows through us end when their frontends change;
// those that began before a frontend was there pass us by as long as conntrack knows them.
func (b *Backend) Finish(context.Context) error {
	if len(b.fresh) == 0 {
		return nil
	}
	if err := b.enter(b.endStrays); err != nil {
		return fmt.Errorf("userspace data plane: end UDP flows that pass the proxy by: %w", err)
	}
	b.fresh = map[routing.Key]bool{}
	return nil
}

// endStrays deletes the UDP flows of conntrack that no rule has translated although a fresh
// frontend is there for them. It reads all of conntrack.
func (b *Backend) endStrays() error {
	return tracked.End(func(f *conntrack.Flow) bool {
		to := f.TupleOrig.IP.DestinationAddress
		if f.TupleOrig.Proto.Protocol != unix.IPPROTO_UDP || f.TupleReply.IP.SourceAddress != to {
			return false
		}
		_, fresh := tracked.Frontend(f, func(key routing.Key) bool { return b.fresh[key] }, b.isNode)
		return fresh
	})
}

func (b *Backend) isNode(a netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nodes[a]
}

// SetNodeAddresses implements dataplane.Backend.
func (b *Backend) SetNodeAddresses(_ context.Context, addrs []netip.Addr) error {
	b.setNodes(addrs)
	if b.doors != nil {
		b.doors.look()
		return nil
	}
	if err := b.rules.setNodes(addrs); err != nil {
		return err
	}
	var guarded []*routing.Frontend // who may use these depends on the node's addresses
	b.mu.Lock()
	for _, f := range b.fronts {
		if now := f.get(); len(now.SourceRanges) > 0 {
			guarded = append(guarded, now)
		}
	}
	b.mu.Unlock()
	return b.rules.change(b.entriesOf(guarded), nil)
}

func (b *Backend) setNodes(addrs []netip.Addr) {
	nodes := map[netip.Addr]bool{}
	for _, a := range addrs {
		nodes[a] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = nodes
}

// Verify implements dataplane.Backend.
func (b *Backend) Verify(_ context.Context, state dataplane.State) ([]string, error) {
	if b.doors != nil {
		return b.doors.verify(), nil
	}
	return b.rules.verify(b.entriesOf(state.Frontends), state.NodeAddresses)
}

// Cleanup implements dataplane.Backend.
func (b *Backend) Cleanup(context.Context) error {
	if b.doors != nil {
		return nil
	}
	return b.rules.remove()
}

// Disturbed implements dataplane.Backend.
func (b *Backend) Disturbed() <-chan struct{} {
	if b.doors != nil {
		return nil
	}
	return b.rules.Disturbed()
}

// Close ends every connection; the rules stay, and lead nowhere.
func (b *Backend) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.end()
	var sessions []*session
	for _, of := range b.sessions {
		sessions = slices.AppendSeq(sessions, maps.Keys(of))
	}
	fronts := maps.Clone(b.fronts)
	b.mu.Unlock()
	var errs []error
	for _, l := range b.listeners {
		errs = append(errs, l.Close())
	}
	if b.doors != nil {
		errs = append(errs, b.doors.close())
	}
	for _, f := range fronts {
		if f.udp != nil {
			f.udp.close()
		}
	}
	for _, s := range sessions {
		s.end(true)
	}
	if b.idle != nil {
		errs = append(errs, b.idle.close())
	}
	if b.rules != nil {
		errs = append(errs, b.rules.Close())
	}
	b.group.Wait()
	return errors.Join(append(errs, b.pipes.close())...)
}
