package dataplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// Options of a Plane. The zero value of each field is usable.
type Options struct {
	Logger *slog.Logger
	// NodeAddresses are the first addresses for node ports; SetNodeAddresses
	// changes them later.
	NodeAddresses []netip.Addr
	// ServiceRanges are the first ranges of cluster IPs; SetServiceRanges changes
	// them later.
	ServiceRanges []netip.Prefix
	// After is the clock of the back-off; nil means time.After.
	After func(time.Duration) <-chan time.Time
	// Now is the clock of the metrics; nil means time.Now.
	Now func() time.Time
}

// The pause after a failure doubles from retryMin to retryMax: the first retry
// comes before a client's SYN is sent again (1 s, RFC 6298), the last often
// enough that a repaired host is served within half a minute.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 30 * time.Second
)

// Plane is the wanted state of a node and the goroutine that brings it to the
// kernel. It takes views like any agent.Consumer; they cost it the computation
// of their frontends, never the kernel's time.
type Plane struct {
	backend Backend
	log     *slog.Logger
	after   func(time.Duration) <-chan time.Time
	kick    chan struct{} // capacity 1: there is news
	asked   chan question
	metrics *metrics // its own fields are guarded by mu

	mu      sync.Mutex // guards the following
	node    *catalog.Node
	table   *routing.Table
	compute routing.Computer
	addrs   []netip.Addr
	ranges  []netip.Prefix
	ready   bool                              // the first Replace has come
	full    bool                              // the next step must be a Sync
	pending map[routing.Key]*routing.Frontend // nil: removed
	moved   bool                              // addrs are not yet in the kernel
	wanted  uint64                            // counts states
	taken   uint64                            // the last state that new connections meet
	applied uint64                            // the last state that is finished too
	failure error                             // of the last attempt
	waiting map[chan struct{}]uint64          // closed when applied reaches the number
}

// New makes a Plane; Run drives it.
func New(backend Backend, opts Options) *Plane {
	p := &Plane{
		backend: backend, log: opts.Logger, after: opts.After,
		kick: make(chan struct{}, 1), asked: make(chan question), metrics: newMetrics(opts.Now),
		node: &catalog.Node{}, table: routing.NewTable(), addrs: usable(opts.NodeAddresses), ranges: slices.Clone(opts.ServiceRanges), full: true,
		pending: map[routing.Key]*routing.Frontend{}, waiting: map[chan struct{}]uint64{},
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.after == nil {
		p.after = time.After
	}
	return p
}

// Replace makes views all there is.
func (p *Plane) Replace(node *catalog.Node, views []catalog.View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node = node
	gone := map[types.NamespacedName]bool{}
	for name := range p.table.Services() {
		gone[name] = true
	}
	for i := range views {
		delete(gone, views[i].Name)
		p.put(&views[i])
	}
	for name := range gone {
		p.put(&catalog.View{Name: name})
	}
	p.ready = true
	p.changed()
}

// Update takes the Services that changed.
func (p *Plane) Update(views []catalog.View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range views {
		p.put(&views[i])
	}
	p.changed()
}

// SetNodeAddresses replaces the node-port addresses. Loopback and unspecified
// addresses are never among them.
func (p *Plane) SetNodeAddresses(addrs []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if next := usable(addrs); !slices.Equal(next, p.addrs) {
		p.addrs, p.moved = next, true
		p.changed()
	}
}

// SetServiceRanges replaces the ranges of cluster IPs. That is done by a full Sync: it
// happens when a person adds or removes a range.
func (p *Plane) SetServiceRanges(ranges []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(ranges, p.ranges) {
		p.ranges, p.full = slices.Clone(ranges), true
		p.changed()
	}
}

func usable(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// put computes one view and notes what it changes. mu is held.
func (p *Plane) put(v *catalog.View) {
	var frontends []routing.Frontend
	if v.Service != nil {
		frontends = p.compute.Compute(p.node, v.Service, v.Slices)
	}
	change := p.table.Put(v.Name, frontends)
	p.metrics.noted(v, !change.Empty())
	for _, f := range change.Set {
		p.pending[f.Key] = f
	}
	for _, key := range change.Removed {
		p.pending[key] = nil
	}
}

// changed wakes Run. mu is held.
func (p *Plane) changed() {
	if len(p.pending) == 0 && !p.moved && !p.full {
		return
	}
	p.wanted++
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Run brings the wanted state to the kernel until ctx ends. It does nothing
// before the first Replace, so that a restarted agent serves what the kernel
// holds until it knows better.
func (p *Plane) Run(ctx context.Context) error {
	retry, pause := (<-chan time.Time)(nil), retryMin
	// due is open to read while something is to be finished. News and repairs
	// need not wait for that, and several steps share one.
	var due <-chan struct{}
	now := make(chan struct{})
	close(now)
	for {
		step := p.step
		select {
		case <-ctx.Done():
			return nil
		case <-p.backend.Disturbed():
			p.doubt()
		case <-due:
			select {
			case <-p.backend.Disturbed(): // a repair comes first
				p.doubt()
			default:
				step = p.finish
			}
		case q := <-p.asked:
			words, err := p.backend.Verify(q.ctx, p.State())
			q.answer <- verified{words, err}
			continue
		case <-p.kick:
			if retry != nil {
				continue // a failure is being waited for; the retry takes all news along
			}
		case <-retry:
		}
		retry, due = nil, nil
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			p.log.Error("programming the kernel failed", "err", err, "retry", pause)
			retry = p.after(pause)
			pause = min(2*pause, retryMax)
			continue
		}
		pause = retryMin
		if p.unfinished() {
			due = now
		}
	}
}

// unfinished reports whether the back end took a state that it has not finished.
func (p *Plane) unfinished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken > p.applied
}

// finish lets the back end finish what it took.
func (p *Plane) finish(ctx context.Context) error {
	begun := p.metrics.now()
	err := p.backend.Finish(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.metrics.done(stepFinish, begun, nil, err)
	p.failure = err
	if err != nil {
		p.full = true
		return err
	}
	p.applied = p.taken
	for c, n := range p.waiting {
		if n <= p.applied {
			close(c)
			delete(p.waiting, c)
		}
	}
	return nil
}

// doubt makes the next step a full Sync, because somebody else wrote.
func (p *Plane) doubt() {
	p.log.Warn("kernel state was changed by somebody else, repairing")
	p.metrics.repairs.Inc()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.full = true
	p.wanted++
}

// step hands everything pending to the back end.
func (p *Plane) step(ctx context.Context) error {
	p.mu.Lock()
	if !p.ready {
		p.mu.Unlock()
		return nil
	}
	full, moved, target, addrs := p.full, p.moved, p.wanted, p.addrs
	var state State
	var change routing.Change
	if full {
		state = p.state()
	} else {
		for key, f := range p.pending {
			if f == nil {
				change.Removed = append(change.Removed, key)
			} else {
				change.Set = append(change.Set, f)
			}
		}
	}
	// Not clear(): that costs what the map once held.
	p.pending = map[routing.Key]*routing.Frontend{}
	p.full, p.moved = false, false
	triggers, begun := p.metrics.take(), p.metrics.now()
	p.mu.Unlock()

	var err error
	if full {
		err = p.backend.Sync(ctx, state)
	} else {
		if moved {
			err = p.backend.SetNodeAddresses(ctx, addrs)
		}
		if err == nil && !change.Empty() {
			err = p.backend.Apply(ctx, change)
		}
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	p.metrics.done(stepName(full), begun, triggers, err)
	p.failure = err
	if err != nil {
		p.full = true
		return err
	}
	p.taken = target
	return nil
}

// state gives all that is wanted. mu is held.
func (p *Plane) state() State {
	return State{Frontends: slices.AppendSeq(make([]*routing.Frontend, 0, p.table.Len()), p.table.All()), NodeAddresses: p.addrs, ServiceRanges: p.ranges}
}

// State gives all that is wanted now, for Verify and for traces.
func (p *Plane) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state()
}

// question asks Run, which alone may use the back end, to verify.
type question struct {
	ctx    context.Context
	answer chan verified // capacity 1: Run never waits for who asked
}

type verified struct {
	differences []string
	err         error
}

// Verify reads the kernel and lists in words what differs from what is wanted
// now; nothing is the proof that both agree. Run must be running.
func (p *Plane) Verify(ctx context.Context) ([]string, error) {
	q := question{ctx, make(chan verified, 1)}
	select {
	case p.asked <- q:
	case <-ctx.Done():
		return nil, fmt.Errorf("verify the data plane: %w", ctx.Err())
	}
	select {
	case v := <-q.answer:
		return v.differences, v.err
	case <-ctx.Done():
		return nil, fmt.Errorf("verify the data plane: %w", ctx.Err())
	}
}

// Frontend gives the frontend that serves a key now, nil when none does.
func (p *Plane) Frontend(key routing.Key) *routing.Frontend {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.table.Get(key)
}

// ErrNotSynced says that the first full state has not yet come.
var ErrNotSynced = errors.New("the data plane waits for the first list of Services")

// Healthy gives nil when the kernel took the last state that was tried, else why
// not.
func (p *Plane) Healthy() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failure == nil && p.taken == 0 {
		return ErrNotSynced
	}
	return p.failure
}

// Wait returns when the kernel holds all that was handed over before the call.
func (p *Plane) Wait(ctx context.Context) error {
	p.mu.Lock()
	if p.ready && p.applied >= p.wanted {
		p.mu.Unlock()
		return nil
	}
	c := make(chan struct{})
	p.waiting[c] = max(p.wanted, 1)
	p.mu.Unlock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, c)
		return errors.Join(ctx.Err(), p.failure)
	}
}
