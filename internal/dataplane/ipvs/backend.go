package ipvs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/tracked"
)

// Config is what the data plane must know of the node's network.
type Config struct {
	// Workloads are the cluster's ranges of pods and guests: a source in them is a workload.
	Workloads []netip.Prefix
	// Addresses are this node's on portico0, one per family: the source that a backend sees
	// when it reaches itself.
	Addresses []netip.Addr
	// MarkBit is the bit of the packet's mark that is ours, 0 to 31.
	MarkBit int
	// Scheduler is that of Services which name none; "": DefaultScheduler.
	Scheduler string
	// Exclude are ranges in which virtual servers are somebody else's.
	Exclude []netip.Prefix
	Logger  *slog.Logger
	// Lacking is told of Services whose scheduler the kernel doesn't have, with the remedy;
	// nil: the log alone is. It must not call the back end.
	Lacking func(service types.NamespacedName, uid types.UID, text string)
	// Enter runs what depends on a network namespace in the right one; nil: in the calling
	// thread's.
	Enter func(func() error) error
}

// Backend is the data plane on IPVS. It implements dataplane.Backend.
type Backend struct {
	cfg    Config
	log    *slog.Logger
	tables *tables
	router *router
	wire   *wire
	eye    *wire // of the looks
	done   chan struct{}
	group  sync.WaitGroup

	mu       sync.Mutex // guards the following
	servers  *servers
	services []netip.Prefix
	plan     *planner         // nil: what the kernel holds is unknown until the next Sync
	facts    map[fact]int     // with how many Service ports need each
	leaving  map[key]bool     // virtual servers that are nobody's and have connections
	fresh    map[key]bool     // those in freshSet
	flows    *tracked.Changes // IPVS forgets a connection with its backend, but conntrack goes on leading it
	changes  uint64           // counts what we did
}

var _ dataplane.Backend = (*Backend)(nil)

// errUnknown asks for a Sync.
var errUnknown = errors.New("what the kernel holds is unknown until the next full sync")

// New opens sockets and begins to look after the virtual servers. It changes nothing.
func New(cfg Config) (*Backend, error) {
	b, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	b.group.Go(b.lookAfter)
	return b, nil
}

// prepare opens sockets.
func prepare(cfg Config) (*Backend, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Enter == nil {
		cfg.Enter = func(f func() error) error { return f() }
	}
	if cfg.Scheduler == "" {
		cfg.Scheduler = DefaultScheduler
	}
	if cfg.MarkBit < 0 || cfg.MarkBit > 31 {
		return nil, fmt.Errorf("ipvs data plane: the bit %d is not one of a packet's mark, 0 to 31", cfg.MarkBit)
	}
	if !slices.Contains(catalog.Schedulers(), cfg.Scheduler) {
		return nil, fmt.Errorf("ipvs data plane: the scheduler %q is unknown; choose one of %s", cfg.Scheduler, strings.Join(catalog.Schedulers(), ", "))
	}
	b := &Backend{cfg: cfg, log: cfg.Logger, done: make(chan struct{}), fresh: map[key]bool{}, flows: tracked.NewChanges()}
	if err := cfg.Enter(b.open); err != nil {
		return nil, errors.Join(fmt.Errorf("ipvs data plane: %w", err), b.Close())
	}
	return b, nil
}

func (b *Backend) open() (err error) {
	w, err := dial()
	if err != nil {
		return err
	}
	b.wire, b.servers = w, &servers{to: w, log: b.log, fallback: b.cfg.Scheduler, lacking: b.cfg.Lacking}
	b.servers.reset(map[key]*server{})
	if b.eye, err = dial(); err != nil {
		return err
	}
	if b.router, err = openRouter(b.mark()); err != nil {
		return err
	}
	b.tables, err = openTables()
	return err
}

func (b *Backend) mark() uint32 { return 1 << b.cfg.MarkBit }

// Close lets go of the sockets; packets go on being served.
func (b *Backend) Close() error {
	select {
	case <-b.done:
		return nil
	default:
	}
	close(b.done)
	b.group.Wait()
	var errs []error
	if b.tables != nil {
		errs = append(errs, b.tables.Close())
	}
	if b.router != nil {
		b.router.close()
	}
	if b.eye != nil {
		errs = append(errs, b.eye.close())
	}
	if b.wire != nil {
		errs = append(errs, b.wire.close())
	}
	return errors.Join(errs...)
}

// Disturbed implements dataplane.Backend.
func (b *Backend) Disturbed() <-chan struct{} { return b.tables.Disturbed() }

// Sync implements dataplane.Backend. Virtual servers change by their differences; the rules
// are replaced in one transaction, which no packet notices.
func (b *Backend) Sync(_ context.Context, state dataplane.State) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	begun := time.Now()
	b.changes++
	before := b.plan
	b.plan = nil
	if err := b.sync(&state, before); err != nil {
		b.plan = nil
		return fmt.Errorf("ipvs data plane: %w", err)
	}
	b.log.Info("The kernel has every Service", "frontends", len(state.Frontends), "virtualServers", len(b.servers.held), "took", time.Since(begun).Round(time.Microsecond))
	return nil
}

func (b *Backend) sync(state *dataplane.State, before *planner) error {
	if err := b.cfg.Enter(setSysctls); err != nil {
		return err
	}
	s, err := b.survey(state)
	if err != nil {
		return err
	}
	b.warn(s.plan)
	b.servers.reset(s.kernel)
	b.services = slices.Clone(state.ServiceRanges)
	for k := range s.servers {
		if s.kernel[k] == nil && k.protocol == catalog.UDP {
			b.fresh[k] = true
			s.facts[freshFact(k)] = 1
		}
	}
	routes := routesOf(b.services, s.singles)
	if err := b.router.add(routes); err != nil {
		return err
	}
	booked, err := b.book(s)
	if err != nil {
		return err
	}
	for k, w := range s.servers {
		if err := b.servers.put(k, w); err != nil {
			return err
		}
	}
	for k := range s.leaving {
		gone, err := b.servers.leave(k, s.idle[k])
		if err != nil {
			return err
		}
		if gone {
			delete(s.leaving, k)
			hold(s.facts, k, -1)
		}
	}
	if err := b.servers.flush(); err != nil {
		return err
	}
	if err := b.settle(s, booked); err != nil {
		return err
	}
	if err := b.router.prune(routes); err != nil {
		return err
	}
	known := map[routing.Key]*routing.Frontend{}
	if before != nil {
		known = before.frontends
	}
	b.flows.Replaced(known, s.plan.frontends)
	b.plan, b.facts, b.leaving = s.plan, s.facts, s.leaving
	return nil
}

// book notes virtual servers as ours before they are made: a next run must know them. Where
// there are no tables it makes them, and gives the facts that they have.
func (b *Backend) book(s *survey) (booked map[fact]int, err error) {
	if ok, err := b.tables.exist(); err != nil {
		return nil, err
	} else if !ok {
		early := maps.Clone(s.facts)
		maps.DeleteFunc(early, func(x fact, _ int) bool { return !x.set.early() })
		return early, b.tables.Unheard(func() error { return b.tables.replace(b.site(b.services), early) })
	}
	var add []fact
	for k := range s.servers {
		if b.fresh[k] {
			add = append(add, freshFact(k))
		}
		if !s.prior[k] {
			add = append(add, fact{oursSet, k.Addr().Is6(), frontendKey(k), ""})
		}
	}
	if len(add) == 0 {
		return nil, nil
	}
	return nil, b.tables.change(add, nil)
}

// settle has the tables lead packets to the virtual servers: those that were just made get
// the rest, others are written anew.
func (b *Backend) settle(s *survey, booked map[fact]int) error {
	if booked == nil {
		return b.tables.replace(b.site(b.services), s.facts)
	}
	var add, del []fact
	for x := range s.facts {
		if booked[x] == 0 {
			add = append(add, x)
		}
	}
	for x := range booked {
		if s.facts[x] == 0 {
			del = append(del, x)
		}
	}
	err := b.tables.Unheard(func() error { return b.tables.change(add, del) })
	if err != nil {
		return err
	}
	if ok, err := b.tables.exist(); !ok || err != nil { // `nft flush ruleset`, say, which nobody heard
		b.tables.Disturb()
		return err
	}
	return nil
}

// warn says which doors are another's virtual servers.
func (b *Backend) warn(p *planner) {
	for k := range p.foreign {
		if f := p.frontends[routing.Key{Addr: k.Addr(), Protocol: k.protocol, Port: k.Port()}]; f != nil {
			b.log.Error("Somebody else has a virtual server at a Service's address, which stays as it is; delete it (ipvsadm -D), or take the address from the Service",
				"virtualServer", k.String(), "service", f.Service.String())
		}
	}
}

// Apply implements dataplane.Backend. A door's packets meet its old virtual server, then
// its new one; backends come before others leave.
func (b *Backend) Apply(_ context.Context, change routing.Change) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.plan == nil {
		return errUnknown
	}
	ports := map[servicePort]bool{}
	b.plan.touched(ports, slices.Values(change.Removed))
	for _, f := range change.Set {
		b.plan.touched(ports, slices.Values([]routing.Key{f.Key}))
		ports[portOf(f)] = true
	}
	return b.change(ports, func() {
		for _, k := range change.Removed {
			b.flows.Changed(b.plan.frontends[k], nil)
			b.plan.put(k, nil)
		}
		for _, f := range change.Set {
			b.flows.Changed(b.plan.frontends[f.Key], f)
			b.plan.put(f.Key, f)
		}
	})
}

// SetNodeAddresses implements dataplane.Backend. Each node port has a virtual server at each
// address, so the cost is theirs.
func (b *Backend) SetNodeAddresses(_ context.Context, addrs []netip.Addr) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.plan == nil {
		return errUnknown
	}
	ports := map[servicePort]bool{}
	for k, f := range b.plan.frontends {
		if k.AnyNode() || len(f.SourceRanges) > 0 {
			ports[portOf(f)] = true
		}
	}
	return b.change(ports, func() { b.plan.nodes = slices.Clone(addrs) })
}

// Finish implements dataplane.Backend.
func (b *Backend) Finish(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.plan == nil {
		return errUnknown
	}
	ended := b.flows.Ended()
	if len(ended) > 0 {
		var err error
		b.changes++
		for k, s := range b.servers.held {
			for at := range ended {
				if _, ok := s.backends[at]; ok {
					err = errors.Join(err, b.servers.backend(cmdDelDest, k, at, 0))
				}
			}
		}
		if err = errors.Join(err, b.servers.flush()); err != nil {
			b.plan = nil
			return fmt.Errorf("ipvs data plane: %w", err)
		}
	}
	get := func(k routing.Key) *routing.Frontend { return b.plan.frontends[k] }
	node := func(a netip.Addr) bool { return slices.Contains(b.plan.nodes, a) }
	if err := b.cfg.Enter(func() error { return b.flows.End(ended, get, node) }); err != nil {
		return fmt.Errorf("ipvs data plane: end flows that lead nowhere: %w", err)
	}
	return b.forgotten()
}

// forgotten lets the flows of fresh virtual servers pass, after the old ones were ended.
func (b *Backend) forgotten() error {
	var del []fact
	for k := range b.fresh {
		del = append(del, freshFact(k))
		delete(b.facts, freshFact(k))
	}
	clear(b.fresh)
	if err := b.put(nil, del); err != nil {
		b.plan = nil
		return fmt.Errorf("ipvs data plane: %w", err)
	}
	return nil
}

// Verify implements dataplane.Backend.
func (b *Backend) Verify(_ context.Context, state dataplane.State) ([]string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, err := b.survey(&state)
	if err != nil {
		return nil, fmt.Errorf("verify ipvs: %w", err)
	}
	var words []string
	for k, w := range s.servers {
		words = append(words, b.servers.differences(k, w, s.kernel[k])...)
	}
	for k := range s.leaving {
		words = append(words, b.servers.differences(k, nil, s.kernel[k])...)
	}
	rules, err := b.tables.verify(b.site(state.ServiceRanges), s.facts)
	if err != nil {
		return nil, fmt.Errorf("verify ipvs: %w", err)
	}
	routes, err := b.router.differences(routesOf(state.ServiceRanges, s.singles))
	if err != nil {
		return nil, fmt.Errorf("verify ipvs: %w", err)
	}
	words = slices.Concat(words, rules, routes)
	slices.Sort(words)
	return words, nil
}

// Cleanup implements dataplane.Backend.
func (b *Backend) Cleanup(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.changes++
	b.plan = nil
	return b.remove()
}

// remove takes away what is ours by our own books.
func (b *Backend) remove() error {
	ours, err := b.tables.ours()
	if err != nil {
		return fmt.Errorf("remove ipvs: %w", err)
	}
	b.servers.reset(map[key]*server{})
	for k := range ours {
		err = errors.Join(err, b.servers.remove(k))
	}
	if err = errors.Join(err, b.servers.flush()); err != nil {
		return fmt.Errorf("remove ipvs: %w", err)
	}
	left, err := b.wire.servers()
	if err == nil && len(left) == 0 {
		err = b.cfg.Enter(resetSysctls)
	}
	return errors.Join(err, b.tables.remove(), b.router.remove())
}
