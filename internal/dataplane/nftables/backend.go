package nftables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

// Config is what the rules must know of the node's network.
type Config struct {
	// WorkloadRanges are the cluster's ranges of pods and guests: a source
	// address in them tells a workload from a client outside.
	WorkloadRanges []netip.Prefix
	// HairpinSources are the node's addresses on portico0, one per family: the
	// source that a backend sees when it reaches itself.
	HairpinSources []netip.Addr
	// AffinityClients is how many clients session affinity remembers in each
	// family; 0 means 262,144. More get any backend for each connection.
	AffinityClients int
	// UDPFlows is how many UDP flows are followed, so that those of a backend that goes
	// are found at once; 0 means 131,072. With more, a change lists conntrack.
	UDPFlows int
	Logger   *slog.Logger
	// Ahead is what was read before New; nil: nothing. The backend closes it.
	Ahead *Ahead
	// Unheard runs a large change while nobody else in this process listens to nftables'
	// notices; nil: nobody does.
	Unheard func(change func() error) error
}

func (c Config) withDefaults() Config {
	if c.AffinityClients <= 0 {
		c.AffinityClients = defaultClients
	}
	if c.UDPFlows <= 0 {
		c.UDPFlows = maxFlows
	}
	if c.Unheard == nil {
		c.Unheard = func(change func() error) error { return change() }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Backend is the data plane on nf_tables. It implements dataplane.Backend.
type Backend struct {
	cfg      Config
	log      *slog.Logger
	conn     *conn
	flows    *flowIndex
	strays   *strays
	watch    *watcher
	families [2]*family
	doubt    map[routing.Key]bool // UDP frontends that may have stale flows
	doubtAll bool
	kernel   *kernel // nil: unknown, a Sync must read it
	nodes    []netip.Addr
	services []netip.Prefix // ranges of cluster IPs
	// toldWithout: the log has that sessions ran out.
	toldWithout bool
}

var _ dataplane.Backend = (*Backend)(nil)

// errUnknown asks for a Sync.
var errUnknown = errors.New("what the kernel holds is unknown until the next full sync")

// New opens the sockets, in the network namespace of the calling thread. It changes nothing.
func New(cfg Config) (*Backend, error) {
	cfg = cfg.withDefaults()
	b := &Backend{doubt: map[routing.Key]bool{}, cfg: cfg, log: cfg.Logger, families: newFamilies(limits{})}
	if err := b.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("nftables data plane: %w", err), b.Close())
	}
	return b, nil
}

// Missing says what this kernel lacks for nftables, or this process to use it; nil: nothing.
func Missing() error {
	c, err := openConn()
	if err != nil {
		return err
	}
	defer c.close() //nolint:errcheck // nothing was written
	switch _, err = c.generation(); {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("this process may not change rules, which needs CAP_NET_ADMIN: %w", err)
	case err != nil:
		return fmt.Errorf("the kernel has no nf_tables (CONFIG_NF_TABLES): %w", err)
	}
	return nil
}

func (b *Backend) open() (err error) {
	if b.conn, err = openConn(); err != nil {
		return err
	}
	if b.flows, err = newFlowIndex(b.log, b.cfg.UDPFlows); err != nil {
		return err
	}
	if b.strays, err = newStrays(b.log); err != nil {
		return err
	}
	b.watch, err = startWatcher(b.conn.port)
	return err
}

// read gives what the kernel has.
func (b *Backend) read(families [2]*family) (*reading, error) {
	if before := b.cfg.Ahead.take(); before != nil {
		return before, nil
	}
	return b.conn.read(families)
}

// Close lets go of the sockets; the rules stay.
func (b *Backend) Close() error {
	errs := []error{b.cfg.Ahead.Close()}
	if b.watch != nil {
		errs = append(errs, b.watch.close())
	}
	if b.flows != nil {
		errs = append(errs, b.flows.close())
	}
	if b.strays != nil {
		errs = append(errs, b.strays.close())
	}
	if b.conn != nil {
		errs = append(errs, b.conn.close())
	}
	return errors.Join(errs...)
}

// Port is the netlink port by which the backend writes; notices of its changes carry it.
func (b *Backend) Port() uint32 { return b.conn.port }

// Disturbed implements dataplane.Backend.
func (b *Backend) Disturbed() <-chan struct{} { return b.watch.disturbed }

// Sync implements dataplane.Backend: everything that differs is changed in one
// transaction; what only a packet on its way may still need goes in a second.
func (b *Backend) Sync(_ context.Context, state dataplane.State) error {
	if b.kernel != nil {
		b.doubtAny(maps.Keys(b.kernel.held))
	}
	b.kernel = nil
	begun, inKernel := time.Now(), b.conn.inKernel
	b.nodes, b.services = slices.Clone(state.NodeAddresses), slices.Clone(state.ServiceRanges)
	b.flows.setNodes(state.NodeAddresses)
	b.strays.follow()
	d, err := b.difference(state, [2][]int{}, false)
	if err != nil {
		return err
	}
	for _, w := range d.words {
		b.log.Debug("repairing", "what", w)
	}
	b.doubtAny(slices.Values(d.gone))
	b.families = d.kernel.families
	changed := d.kernel.now.count
	if err := b.carryOut(d.kernel, d.skeleton, d.pruning); err != nil {
		return fmt.Errorf("sync nftables: %w", err)
	}
	b.kernel = d.kernel
	b.doubtAll = true
	b.log.Info("The kernel has every Service", "frontends", len(state.Frontends), "changed", changed,
		"took", time.Since(begun).Round(time.Microsecond), "kernel", (b.conn.inKernel - inKernel).Round(time.Microsecond))
	return nil
}

// Verify implements dataplane.Backend.
func (b *Backend) Verify(_ context.Context, state dataplane.State) ([]string, error) {
	d, err := b.difference(state, b.lengths(), true)
	if err != nil {
		return nil, err
	}
	return d.all(), nil
}

// difference is what leads from the kernel's state to the wanted one.
type difference struct {
	kernel            *kernel // with the planned changes of elements
	skeleton, pruning []message
	words             []string      // about skeleton and pruning
	gone              []routing.Key // UDP frontends that served and aren't wanted, and the doors that node ports had
}

// lengths of prefixes that the kernel has sets for.
func (b *Backend) lengths() [2][]int { return [2][]int{b.families[0].lengths, b.families[1].lengths} }

// chains gives the fixed chains of one family.
func (b *Backend) chains(i int, f *family) []chainSpec {
	var source netip.Addr
	for _, a := range b.cfg.HairpinSources {
		if index(a) == i {
			source = a
		}
	}
	return f.chains(source, b.cfg.WorkloadRanges)
}

// difference compares the kernel with state. lengths are those of prefixes whose
// sets may be there although state has no use for them, and spare says the same of
// chains.
func (b *Backend) difference(state dataplane.State, lengths [2][]int, spare bool) (*difference, error) {
	families := newFamilies(limits{lengths: lengthsOf(state.Frontends, lengths), clients: b.cfg.AffinityClients})
	r, err := b.read(families)
	if err != nil {
		return nil, err
	}
	d := &difference{kernel: newKernel(families), gone: r.servedUDP(families)}
	var fixed [2][]chainSpec
	for i, f := range families {
		// Either asks for both; carryOut removes the chains where nothing is in the set.
		f.resets = f.isAnswering(&r[i]) || len(r[i].elements[endedSet]) > 0
		fixed[i] = b.chains(i, f)
		msgs, words := f.repair(&r[i], fixed[i])
		d.skeleton, d.words = append(d.skeleton, msgs...), append(d.words, words...)
	}
	k := d.kernel
	k.time = time.Now()
	k.adopt(r)
	gone := maps.Clone(k.held)
	k.setNodeAddresses(state.NodeAddresses)
	k.claimSessions(state.Frontends)
	for _, f := range state.Frontends {
		k.set(f)
		delete(gone, f.Key)
	}
	for key := range gone {
		k.remove(key)
	}
	d.gone = slices.DeleteFunc(d.gone, func(key routing.Key) bool { return k.held[key] != nil })
	k.settle()
	b.planRanges(k, r, state.ServiceRanges)
	for i, f := range families {
		if f.resets && k.ends[i].held == 0 {
			d.words = append(d.words, f.name+": chains for backends that are gone, and none is")
		}
		msgs, words := k.prune(i, &r[i], fixed[i], spare)
		d.pruning, d.words = append(d.pruning, msgs...), append(d.words, words...)
	}
	return d, nil
}

// planRanges plans the two interval sets, which seldom change: where one differs it
// is emptied and filled.
func (b *Backend) planRanges(k *kernel, r *reading, services []netip.Prefix) {
	for set, prefixes := range map[string][]netip.Prefix{serviceRangesSet: services, workloadRangesSet: b.cfg.WorkloadRanges} {
		for i := range b.families {
			have, want := r[i].elements[set], rangeElements(prefixes, i == 1)
			// The kernel may show an end at the address zero, which stands
			// for nothing.
			have = slices.DeleteFunc(slices.Clone(have), func(e element) bool { return e.end && !slices.Contains(want, e) && allZero(e.key) })
			if sameElements(have, want) {
				continue
			}
			// Of each interval the start before the end, or the kernel doesn't find
			// it (nft_rbtree_deactivate); a dump has them in any order.
			slices.SortFunc(have, func(a, b element) int { return strings.Compare(a.key, b.key) })
			for _, e := range have {
				k.now.del(i, set, e)
			}
			for _, e := range want {
				k.now.add(i, set, e)
			}
		}
	}
}

func allZero(s string) bool {
	for i := range len(s) {
		if s[i] != 0 {
			return false
		}
	}
	return true
}

func sameElements(a, b []element) bool {
	if len(a) != len(b) {
		return false
	}
	for _, e := range a {
		if !slices.Contains(b, e) {
			return false
		}
	}
	return true
}

// Apply implements dataplane.Backend.
func (b *Backend) Apply(_ context.Context, change routing.Change) error {
	k := b.kernel
	if k == nil {
		return errUnknown
	}
	b.doubtUDP(change)
	b.kernel, k.time = nil, time.Now()
	var grown []message
	for i, lengths := range lengthsOf(change.Set, b.lengths()) {
		grown = append(grown, b.families[i].grow(lengths)...)
	}
	for _, key := range change.Removed {
		k.remove(key)
	}
	for _, f := range change.Set {
		k.set(f)
	}
	k.settle()
	if err := b.carryOut(k, grown, nil); err != nil {
		b.doubtAny(maps.Keys(k.held))
		return fmt.Errorf("change nftables: %w", err)
	}
	b.kernel = k
	return nil
}

// Finish implements dataplane.Backend.
func (b *Backend) Finish(context.Context) error {
	if b.kernel == nil {
		return errUnknown
	}
	return b.endFlows()
}

// SetNodeAddresses implements dataplane.Backend.
func (b *Backend) SetNodeAddresses(_ context.Context, addrs []netip.Addr) error {
	k := b.kernel
	if k == nil {
		return errUnknown
	}
	b.doubtNodePorts()
	b.kernel, b.nodes = nil, slices.Clone(addrs)
	b.flows.setNodes(addrs)
	k.setNodeAddresses(addrs)
	k.settle()
	if err := b.carryOut(k, nil, nil); err != nil {
		b.doubtAny(maps.Keys(k.held))
		return fmt.Errorf("change node-port addresses: %w", err)
	}
	b.kernel = k
	return nil
}

// carryOut commits what is planned in k, between skeleton and pruning.
func (b *Backend) carryOut(k *kernel, skeleton, pruning []message) error {
	b.tellWithout(k)
	now := append(skeleton, k.answerEnded()...)
	for i, f := range b.families {
		for j := range k.newChains[i] {
			now = append(now, f.chainMessages(&k.newChains[i][j])...)
		}
	}
	count := k.now.count + k.later.count
	now = k.now.messages(now, b.families)
	later := append(k.later.messages(nil, b.families), pruning...)
	k.changes = changes{}
	if count < manyElements {
		return b.commit(now, later)
	}
	return b.unheard(func() error { return b.commit(now, later) }, now, later)
}

// manyElements is from where a change is made without anybody of ours listening
// to its notices (see watcher.listen): two system calls are cheaper then.
const manyElements = 200

func (b *Backend) commit(now, later []message) error {
	if err := b.conn.commit(now); err != nil {
		return err
	}
	return b.conn.commit(later)
}

// unheard runs f, which commits the given transactions, while the watcher
// doesn't listen. Somebody else's change in that time is told by the generation
// having grown by more than ours.
func (b *Backend) unheard(f func() error, transactions ...[]message) (err error) {
	before, err := b.conn.generation()
	if err != nil {
		return err
	}
	if err := b.watch.listen(false); err != nil {
		return fmt.Errorf("stop listening to notices: %w", err)
	}
	err = b.cfg.Unheard(f)
	if e := b.watch.listen(true); e != nil {
		return errors.Join(err, fmt.Errorf("listen to notices again: %w", e))
	}
	ours := uint32(0)
	for _, t := range transactions {
		if len(t) > 0 {
			ours++
		}
	}
	after, e := b.conn.generation()
	if e == nil && err == nil && after != before+ours {
		b.watch.disturb()
	}
	return errors.Join(err, e)
}

// Cleanup implements dataplane.Backend.
func (b *Backend) Cleanup(context.Context) error {
	b.kernel = nil
	r, err := b.conn.read(b.families)
	if err != nil {
		return err
	}
	var msgs []message
	for i, f := range b.families {
		if r[i].exists {
			msgs = append(msgs, f.tableMessage(unix.NFT_MSG_DELTABLE))
		}
	}
	if err := b.conn.commit(msgs); err != nil {
		return fmt.Errorf("remove our tables: %w", err)
	}
	return nil
}
