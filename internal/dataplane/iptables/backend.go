package iptables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/tracked"
)

// DefaultMasqueradeBit is kube-proxy's (--iptables-masquerade-bit).
const DefaultMasqueradeBit = 14

// Config is what the rules must know of the node's network.
type Config struct {
	// WorkloadRanges are the cluster's ranges of pods and guests: a source in them is a
	// workload.
	WorkloadRanges []netip.Prefix
	// HairpinSources are the node's addresses on portico0, one per family: the source that
	// a backend sees when it reaches itself.
	HairpinSources []netip.Addr
	// MasqueradeBit is the bit of the packet's mark that is ours, 0 to 31.
	MasqueradeBit int
	// LocalNodePorts has node ports answer at IPv4's loopback addresses too.
	LocalNodePorts bool
	// Variant is Legacy or NFTables; "": what the host uses.
	Variant string
	Logger  *slog.Logger
	// Enter runs what touches rules in the network namespace where they belong; nil: in
	// the calling thread's.
	Enter func(func() error) error
}

// Backend is the data plane on iptables. It implements dataplane.Backend.
type Backend struct {
	cfg      Config
	log      *slog.Logger
	programs *programs
	watch    *watcher
	families [2]*family // nil: unknown, a Sync must read what is there
	last     [2]*family // as they were known last, for flows
	flows    *tracked.Changes
}

var _ dataplane.Backend = (*Backend)(nil)

// errUnknown asks for a Sync.
var errUnknown = errors.New("what the kernel holds is unknown until the next full sync")

// New finds the programs and begins to watch the rules. It changes nothing.
func New(cfg Config) (*Backend, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Enter == nil {
		cfg.Enter = here
	}
	if cfg.MasqueradeBit < 0 || cfg.MasqueradeBit > 31 {
		return nil, fmt.Errorf("iptables data plane: the masquerade bit %d is not one of a mark's, 0 to 31", cfg.MasqueradeBit)
	}
	b := &Backend{cfg: cfg, log: cfg.Logger, flows: tracked.NewChanges()}
	if err := b.open(); err != nil {
		return nil, fmt.Errorf("iptables data plane: %w", err)
	}
	b.log.Info("Packets are handled by iptables", "variant", b.programs.variant)
	return b, nil
}

func (b *Backend) open() (err error) {
	if b.programs, err = b.cfg.programs(context.Background()); err != nil {
		return err
	}
	return b.cfg.Enter(func() (err error) {
		b.watch, err = startWatcher(b.programs.variant)
		return err
	})
}

// programs gives those of the variant that is wanted.
func (c *Config) programs(ctx context.Context) (*programs, error) {
	if c.Variant == "" {
		return choose(ctx, c.Enter)
	}
	return exact(c.Variant, c.Enter)
}

// Close lets go of the sockets; the rules stay.
func (b *Backend) Close() error { return b.watch.close() }

// Disturbed implements dataplane.Backend.
func (b *Backend) Disturbed() <-chan struct{} { return b.watch.disturbed }

// plan gives a family that wants state, on top of a reading.
func (b *Backend) plan(v6 bool, state dataplane.State, r *reading) (*family, error) {
	f := newFamily(v6, &b.cfg)
	if !v6 {
		var err error
		f.local = b.cfg.LocalNodePorts
		if f.shielded, err = b.guardsLoopback(r); err != nil {
			return nil, err
		}
	}
	f.held = r.held
	f.services = f.of(state.ServiceRanges)
	f.setNodes(state.NodeAddresses)
	for _, fe := range state.Frontends {
		if fe.Addr.Is6() == v6 {
			f.put(fe.Key, fe)
		}
	}
	f.all()
	return f, nil
}

// Sync implements dataplane.Backend.
func (b *Backend) Sync(ctx context.Context, state dataplane.State) error {
	begun, changed := time.Now(), 0
	b.families = [2]*family{}
	var now [2]*family
	for i, v6 := range []bool{false, true} {
		r := newReading()
		if err := b.programs.read(ctx, v6, r); err != nil {
			return fmt.Errorf("sync iptables: %w", err)
		}
		if len(r.foreign) > 0 {
			b.log.Warn("Chains have names like ours and are not ours; they are left alone", "chains", r.foreign)
		}
		f, err := b.plan(v6, state, r)
		if err != nil {
			return fmt.Errorf("sync iptables: %w", err)
		}
		if r.guardsLoopback() && !f.shielded {
			if err := b.programs.setLocalnet(false); err != nil {
				return err
			}
		}
		var out batch
		updates, spared := r.spare(f.updates())
		if len(spared) > 0 {
			b.log.Warn("Rules of others lead to chains of ours that nothing uses any more; the chains stay, empty, until those rules are gone", "chains", spared)
		}
		out.add(updates)
		for _, i := range r.misplaced() {
			out.unhook(i, r.present(i))
			out.hook(i)
		}
		if err := b.commit(ctx, v6, &out); err != nil {
			return fmt.Errorf("sync iptables: %w", err)
		}
		if f.shielded { // the guard is there
			if err := b.programs.setLocalnet(true); err != nil {
				return err
			}
		}
		f.took(updates)
		now[i], changed = f, changed+len(updates)
	}
	b.flows.Replaced(frontendsOf(b.last), frontendsOf(now))
	b.families, b.last = now, now
	b.log.Info("The kernel has every Service", "frontends", len(state.Frontends), "changed", changed, "took", time.Since(begun).Round(time.Microsecond))
	return nil
}

// frontendsOf gives those of both families; none where they aren't known.
func frontendsOf(families [2]*family) map[routing.Key]*routing.Frontend {
	out := map[routing.Key]*routing.Frontend{}
	for _, f := range families {
		if f != nil {
			maps.Copy(out, f.frontends)
		}
	}
	return out
}

// Apply implements dataplane.Backend. Each table changes at once.
func (b *Backend) Apply(ctx context.Context, change routing.Change) error {
	return b.change(ctx, func(f *family) {
		for _, key := range change.Removed {
			if key.Addr.Is6() == f.v6 {
				b.flows.Changed(f.frontends[key], nil)
				f.put(key, nil)
			}
		}
		for _, fe := range change.Set {
			if fe.Addr.Is6() == f.v6 {
				b.flows.Changed(f.frontends[fe.Key], fe)
				f.put(fe.Key, fe)
			}
		}
	})
}

// SetNodeAddresses implements dataplane.Backend.
func (b *Backend) SetNodeAddresses(ctx context.Context, addrs []netip.Addr) error {
	return b.change(ctx, func(f *family) { f.setNodes(addrs) })
}

// change plans and carries out a change of both families. A failure leaves the state
// unknown.
func (b *Backend) change(ctx context.Context, plan func(f *family)) error {
	families := b.families
	if families[0] == nil {
		return errUnknown
	}
	for _, f := range families {
		plan(f)
		var out batch
		updates := f.updates()
		out.add(updates)
		if err := b.commit(ctx, f.v6, &out); err != nil {
			b.families = [2]*family{}
			return fmt.Errorf("change iptables: %w", err)
		}
		f.took(updates)
	}
	return nil
}

// commit carries a batch out, deaf to its own notices.
func (b *Backend) commit(ctx context.Context, v6 bool, out *batch) error {
	if out.commits() == 0 {
		return nil
	}
	return b.watch.ownly(out.commits(), func() error { return b.programs.restore(ctx, v6, out.text()) })
}

// Finish implements dataplane.Backend.
func (b *Backend) Finish(context.Context) error {
	if b.families[0] == nil {
		return errUnknown
	}
	of := func(a netip.Addr) *family {
		if a.Is6() {
			return b.families[1]
		}
		return b.families[0]
	}
	get := func(k routing.Key) *routing.Frontend { return of(k.Addr).frontends[k] }
	node := func(a netip.Addr) bool { return of(a).isNode(a) }
	if err := b.cfg.Enter(func() error { return b.flows.End(b.flows.Ended(), get, node) }); err != nil {
		return fmt.Errorf("iptables data plane: end flows that lead nowhere: %w", err)
	}
	return nil
}

// Verify implements dataplane.Backend.
func (b *Backend) Verify(ctx context.Context, state dataplane.State) ([]string, error) {
	var words []string
	for _, v6 := range []bool{false, true} {
		program := "iptables"
		if v6 {
			program = "ip6tables"
		}
		r := newReading()
		if err := b.programs.read(ctx, v6, r); err != nil {
			return nil, fmt.Errorf("verify iptables: %w", err)
		}
		f, err := b.plan(v6, state, r)
		if err != nil {
			return nil, fmt.Errorf("verify iptables: %w", err)
		}
		if f.local {
			if on, err := b.programs.localnet(); err != nil || !on {
				words = append(words, "net.ipv4.conf.all.route_localnet is off, so that node ports don't answer at 127.0.0.1")
			}
		}
		updates, _ := r.spare(f.updates())
		for _, u := range updates {
			what := "has other rules"
			if _, there := r.held[u.chain]; !there {
				what = "is missing"
			} else if u.gone {
				what = "is nobody's"
			}
			words = append(words, fmt.Sprintf("%s -t %s: chain %s %s", program, tableNames[u.table], u.name, what))
		}
		for _, i := range r.misplaced() {
			h := hooks[i]
			words = append(words, fmt.Sprintf("%s -t %s: the jump from %s to %s isn't the first rule", program, tableNames[h.table], h.from, h.to))
		}
	}
	slices.Sort(words)
	return words, nil
}

// Cleanup implements dataplane.Backend.
func (b *Backend) Cleanup(ctx context.Context) error {
	b.families, b.last = [2]*family{}, [2]*family{}
	return b.programs.remove(ctx)
}
