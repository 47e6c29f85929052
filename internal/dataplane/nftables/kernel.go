package nftables

import (
	"net/netip"
	"slices"
	"time"

	"portico.dev/portico/internal/core/routing"
)

// kernel is what we know the kernel to hold, and the changes that are planned
// on top of it. Planning changes both at once: after a failed commit the whole
// value is worthless and must be read anew.
type kernel struct {
	families [2]*family
	held     map[routing.Key]*held
	chains   [2]map[target]bool // draw chains that exist
	chosen   [2]map[target]bool // that the map choices leads to
	near     [2]refs            // backends that may be on this node: hairpin
	far      [2]refs            // backends on other nodes: masquerade
	ips      [2]refs            // cluster IPs
	nodes    [2]refs            // node-port addresses
	lbIPs    [2]refs            // load-balancer addresses
	external [2]refs            // external IPs
	sessions [2]*sessions
	guarded  map[routing.Key]bool // frontends with source ranges
	ends     [2]*endings          // backends that are gone
	time     time.Time            // of this change

	changes
}

// held is what the kernel holds of one frontend.
type held struct {
	inside, outside target
	refused         refusal
	cluster, local  []netip.AddrPort // by slot
	sessionIDs      [2]uint16        // of the cluster and the local set; 0: none
	sessions        [2]*session      // nil also for what an earlier run left
	guarded         bool
	admitted        []netip.Prefix    // sorted
	frontend        *routing.Frontend // nil for what an earlier run left
}

func newKernel(families [2]*family) *kernel {
	k := &kernel{families: families, held: map[routing.Key]*held{}, guarded: map[routing.Key]bool{}}
	for i := range families {
		k.chains[i], k.chosen[i] = map[target]bool{}, map[target]bool{}
		for _, r := range []*refs{&k.near[i], &k.far[i], &k.ips[i], &k.nodes[i], &k.lbIPs[i], &k.external[i]} {
			*r = newRefs()
		}
		k.sessions[i], k.ends[i] = newSessions(), newEndings()
	}
	return k
}

func index(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// set plans what makes the kernel serve f.
func (k *kernel) set(f *routing.Frontend) {
	h := k.held[f.Key]
	if h == nil {
		h = &held{}
		k.held[f.Key] = h
	}
	k.count(f, +1, h.frontend)
	if h.frontend != nil {
		k.count(h.frontend, -1, f)
	}
	k.end(h.frontend, f)
	h.frontend = f

	p := k.planFor(f.Key)
	f = p.stick(h, f)
	h.cluster = p.slots(p.clusterSet(), h.cluster, unsticky(f, routing.ToCluster))
	h.local = p.slots(p.localSet(), h.local, unsticky(f, routing.ToLocal))
	p.guard(h, f)
	inside, outside, refused := targets(f)
	p.lead(p.servicesMap(), &h.inside, inside)
	p.lead(p.outsideMap(), &h.outside, outside)
	p.refuse(&h.refused, refused)
}

// remove plans the end of a frontend.
func (k *kernel) remove(key routing.Key) {
	h := k.held[key]
	if h == nil {
		return
	}
	if h.frontend != nil {
		k.count(h.frontend, -1, nil)
	}
	p := k.planFor(key)
	p.lead(p.servicesMap(), &h.inside, target{})
	p.lead(p.outsideMap(), &h.outside, target{})
	p.refuse(&h.refused, none)
	p.slots(p.clusterSet(), h.cluster, nil)
	p.slots(p.localSet(), h.local, nil)
	p.unstick(h)
	p.guard(h, nil)
	delete(k.held, key)
	k.ends[p.i].left = append(k.ends[p.i].left, key.Addr)
}

// count adds to or takes from the address sets what one frontend contributes, but for
// backends that its other version has too.
func (k *kernel) count(f *routing.Frontend, by int, other *routing.Frontend) {
	i := index(f.Addr)
	switch f.Kind {
	case routing.ClusterIP:
		k.ips[i].add(f.Addr, by)
	case routing.LoadBalancerIP:
		k.lbIPs[i].add(f.Addr, by)
	case routing.ExternalIP:
		k.external[i].add(f.Addr, by)
	}
	for _, a := range []routing.Action{routing.ToCluster, routing.ToLocal} {
		var same []routing.Backend
		if other != nil {
			same = used(other, a)
		}
		for _, b := range used(f, a) {
			at, found := slices.BinarySearchFunc(same, b.AddrPort, compareAddrPort)
			if found && same[at].Local == b.Local && same[at].Node == b.Node {
				continue
			}
			if b.Local || b.Node == "" {
				k.near[i].add(b.Addr(), by)
			}
			if !b.Local {
				k.far[i].add(b.Addr(), by)
			}
		}
	}
}

func compareAddrPort(b routing.Backend, ap netip.AddrPort) int { return b.Compare(ap) }

// used gives the backends of one of f's sets if some verdict leads there.
func used(f *routing.Frontend, a routing.Action) []routing.Backend {
	for _, v := range f.Verdicts {
		if v.Action == a {
			return f.Of(a)
		}
	}
	return nil
}

// refusal is what happens to packets of a frontend that no map translated.
type refusal uint8

const (
	none refusal = iota
	refuse
	discard
)

// targets translates verdicts. One map serves packets of workloads and of the
// node, whose verdicts always have the same action; a second map holds only what
// is different for packets from outside. What both leave untranslated is refused,
// for inside and outside alike, since at most one of them refuses in a way of
// its own.
func targets(f *routing.Frontend) (inside, outside target, refused refusal) {
	in, out := f.Verdicts[routing.Workload], f.Verdicts[routing.Outside]
	inside = serving(f, in)
	if o := serving(f, out); o != inside {
		outside = o
		if o.kind == nowhere {
			outside = target{kind: leave}
		}
	}
	for _, v := range []routing.Verdict{out, in} {
		switch v.Action {
		case routing.Reject:
			refused = refuse
		case routing.Drop:
			refused = discard
		}
	}
	return inside, outside, refused
}

func serving(f *routing.Frontend, v routing.Verdict) (t target) {
	limit := maxCount
	if f.Affinity > 0 {
		limit = maxStickyCount
	}
	switch v.Action {
	case routing.ToCluster:
		t = target{kind: cluster, count: min(len(f.Cluster), limit)}
	case routing.ToLocal:
		t = target{kind: local, count: min(len(f.Local), limit)}
	default:
		return target{}
	}
	t.affinity = affinitySeconds(f)
	if f.AnyNode() {
		t = t.forNodePort()
	}
	return t
}

// plan is the planning for one frontend.
type plan struct {
	k        *kernel
	i        int // of the family
	of       routing.Key
	key      []byte // of the kernel's element
	nodePort bool
}

func (k *kernel) planFor(key routing.Key) plan {
	return plan{k: k, i: index(key.Addr), of: key, key: frontendKey(key), nodePort: key.AnyNode()}
}

func (p plan) pick(service, nodePort string) string {
	if p.nodePort {
		return nodePort
	}
	return service
}

func (p plan) servicesMap() string { return p.pick(servicesMap, nodePortsMap) }
func (p plan) outsideMap() string  { return p.pick(outsideServicesMap, outsideNodePortsMap) }
func (p plan) refusedSet(r refusal) string {
	if r == refuse {
		return p.pick(refusedServicesSet, refusedNodePortsSet)
	}
	return p.pick(droppedServicesSet, droppedNodePortsSet)
}
func (p plan) clusterSet() string { return p.pick(clusterBackendsMap, nodeClusterBackendsMap) }
func (p plan) localSet() string   { return p.pick(localBackendsMap, nodeLocalBackendsMap) }

// lead plans the element of one map of frontends.
func (p plan) lead(name string, have *target, want target) {
	if *have == want {
		return
	}
	if have.kind != nowhere {
		p.k.now.del(p.i, name, element{key: string(p.key), data: have.code()})
	}
	if want.kind != nowhere {
		p.k.needChain(p.i, want)
		p.k.now.add(p.i, name, element{key: string(p.key), data: want.code()})
	}
	*have = want
}

// refuse plans the element of one of the sets of refused frontends.
func (p plan) refuse(have *refusal, want refusal) {
	if *have == want {
		return
	}
	if *have != none {
		p.k.now.del(p.i, p.refusedSet(*have), element{key: string(p.key)})
	}
	if want != none {
		p.k.now.add(p.i, p.refusedSet(want), element{key: string(p.key)})
	}
	*have = want
}

// needChain plans the chain of a target, and the way to it, where they are not
// there yet.
func (k *kernel) needChain(i int, t target) {
	for _, c := range []target{t.remembering(), t} {
		if c.kind != nowhere && c.kind != leave && !k.chains[i][c] {
			k.chains[i][c] = true
			k.newChains[i] = append(k.newChains[i], k.families[i].onDemand(c))
		}
	}
	if !k.chosen[i][t] {
		k.chosen[i][t] = true
		k.now.add(i, choicesMap, t.choice())
	}
}

// slots plans the elements of one backend set and gives what its slots will
// hold. A packet reads the number of backends and then a slot, each at its own
// moment, so it may ask for any slot that either the old or the new number
// allows. Therefore a slot that goes away is first refilled with a backend that
// stays, in the transaction that lowers the number, and only the next one
// deletes it.
func (p plan) slots(name string, have []netip.AddrPort, want []routing.Backend) []netip.AddrPort {
	return planSlots(p.k, p.i, name, have, addrPorts(want), p.slot)
}

func addrPorts(b []routing.Backend) []netip.AddrPort {
	out := make([]netip.AddrPort, len(b))
	for i := range b {
		out[i] = b[i].AddrPort
	}
	return out
}

func planSlots[T comparable](k *kernel, i int, name string, have, want []T, slot func(int, T) element) []T {
	next := assign(have, want)
	for n, v := range next {
		if n < len(have) {
			if have[n] == v {
				continue
			}
			k.now.del(i, name, slot(n, have[n]))
		}
		k.now.add(i, name, slot(n, v))
	}
	for n := len(next); n < len(have); n++ {
		last := have[n]
		if len(next) > 0 && !slices.Contains(next, last) {
			k.now.del(i, name, slot(n, last))
			last = next[n%len(next)]
			k.now.add(i, name, slot(n, last))
		}
		k.later.del(i, name, slot(n, last))
	}
	return next
}

func (p plan) slot(i int, ap netip.AddrPort) element {
	return element{key: slotKey(p.key, i), data: backendData(ap)}
}

// assign gives each wanted value a slot: the one it has where that remains, so
// that few slots change.
func assign[T comparable](have, want []T) []T {
	if len(want) == 0 {
		return nil
	}
	if len(want) <= fewSlots && len(have) <= fewSlots {
		return assignFew(have, want)
	}
	return assignMany(have, want)
}

func assignMany[T comparable](have, want []T) []T {
	homeless := make(map[T]bool, len(want))
	for _, v := range want {
		homeless[v] = true
	}
	next := make([]T, len(want))
	var free []int
	for i := range next {
		if i < len(have) && homeless[have[i]] {
			next[i] = have[i]
			delete(homeless, have[i])
		} else {
			free = append(free, i)
		}
	}
	for _, v := range want { // in want's order, so that the result is always the same
		if homeless[v] {
			next[free[0]] = v
			free = free[1:]
		}
	}
	return next
}

// fewSlots are so few that looking at all costs less than a map.
const fewSlots = 16

// assignFew is assign for few. The zero value is no slot's.
func assignFew[T comparable](have, want []T) []T {
	next := make([]T, len(want))
	var zero T
	for i := range min(len(have), len(want)) {
		if slices.Contains(want, have[i]) && !slices.Contains(have[:i], have[i]) {
			next[i] = have[i]
		}
	}
	free := 0
	for _, v := range want {
		if slices.Contains(next, v) {
			continue
		}
		for next[free] != zero {
			free++
		}
		next[free] = v
	}
	return next
}

// settle plans the address sets after the frontends.
func (k *kernel) settle() {
	k.settleSessions()
	k.settleEnded()
	for i := range k.families {
		for _, s := range [...]struct {
			name string
			refs *refs
		}{
			{hairpinSet, &k.near[i]},
			{remoteBackendsSet, &k.far[i]},
			{clusterIPsSet, &k.ips[i]},
			{nodeAddressesSet, &k.nodes[i]},
			{loadBalancerIPsSet, &k.lbIPs[i]},
			{externalIPsSet, &k.external[i]},
		} {
			add, del := s.refs.settle()
			for _, a := range del {
				k.now.del(i, s.name, addressElement(s.name, a))
			}
			for _, a := range add {
				k.now.add(i, s.name, addressElement(s.name, a))
			}
		}
	}
}

func addressElement(set string, a netip.Addr) element {
	key := a.AsSlice()
	if set == hairpinSet {
		key = append(key, key...)
	}
	return element{key: string(key)}
}

// setNodeAddresses plans the node-port addresses.
func (k *kernel) setNodeAddresses(addrs []netip.Addr) {
	for i := range k.nodes {
		for _, a := range k.nodes[i].wanted() {
			k.nodes[i].add(a, -1)
		}
	}
	for _, a := range addrs {
		k.nodes[index(a)].add(a, +1)
	}
	for key := range k.guarded { // who may use these depends on the node's addresses
		if h := k.held[key]; h != nil && h.frontend != nil {
			k.planFor(key).guard(h, h.frontend)
		}
	}
}
