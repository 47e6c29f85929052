package iptables

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

type table uint8

const (
	nat table = iota
	filter
	tables = 2
)

var tableNames = [tables]string{"nat", "filter"}

// chain is one of ours.
type chain struct {
	table table
	name  string
}

// family plans the rules of IPv4 or IPv6. It is pure: what differs from what the kernel
// holds comes out as a batch.
type family struct {
	v6        bool
	mark      mark
	workloads []netip.Prefix
	hairpin   netip.Addr // invalid: none
	nodes     []netip.Addr
	services  []netip.Prefix
	local     bool // node ports are at loopback too
	shielded  bool // others are kept from loopback

	frontends map[routing.Key]*routing.Frontend
	sets      map[string]*set

	addresses, outside, node, outNode, closed, closedNode, balancers, externals, sources *tree

	dirtySets map[string]bool
	dirty     map[chain]func() ([]string, bool) // the rules; false: the chain goes
	held      map[chain]uint64                  // what the kernel has, by digest
}

func newFamily(v6 bool, cfg *Config) *family {
	f := &family{
		v6: v6, mark: 1 << cfg.MasqueradeBit,
		frontends: map[routing.Key]*routing.Frontend{}, sets: map[string]*set{},
		dirtySets: map[string]bool{}, dirty: map[chain]func() ([]string, bool){}, held: map[chain]uint64{},
	}
	f.workloads = f.of(cfg.WorkloadRanges)
	for _, a := range cfg.HairpinSources {
		if a.Is6() == v6 {
			f.hairpin = a
		}
	}
	inside := func(k routing.Key, fe *routing.Frontend) []string { return f.lead(fe, false) }
	outside := func(k routing.Key, fe *routing.Frontend) []string { return f.lead(fe, true) }
	f.addresses, f.outside = newTree(nat, servicesTree, inside), newTree(nat, outsideTree, outside)
	f.node, f.outNode = newTree(nat, nodeTree, inside), newTree(nat, outNodeTree, outside)
	f.closed, f.closedNode = newTree(filter, closedTree, f.close), newTree(filter, closedNode, f.close)
	f.closed.tail = f.closeAddress
	nothing := func(routing.Key, *routing.Frontend) []string { return nil }
	turnAway := func(k routing.Key) []string {
		to := "-d " + whole(k.Addr)
		return []string{to + " -m conntrack --ctstate NEW -j " + refuseChain, to + " -j DROP"}
	}
	f.balancers, f.externals = newTree(filter, balancerTree, nothing), newTree(filter, externalTree, nothing)
	f.balancers.tail, f.externals.tail = turnAway, turnAway
	f.sources = newTree(filter, sourceTree, func(k routing.Key, _ *routing.Frontend) []string {
		return []string{fmt.Sprintf("-s %s -p udp -m udp --sport %d -j DROP", whole(k.Addr), k.Port)}
	})
	f.sources.match = "-s "
	return f
}

func (f *family) trees() []*tree {
	return []*tree{f.addresses, f.outside, f.node, f.outNode, f.closed, f.closedNode, f.balancers, f.externals, f.sources}
}

// of picks the prefixes of this family.
func (f *family) of(all []netip.Prefix) (out []netip.Prefix) {
	for _, p := range all {
		if p.Addr().Is6() == f.v6 {
			out = append(out, p.Masked())
		}
	}
	return out
}

// target gives the set that a side's packets go to, "" for none.
func target(fe *routing.Frontend, outside bool) string {
	if outside {
		return setName(fe, fe.Verdicts[routing.Outside])
	}
	return setName(fe, fe.Verdicts[routing.Workload])
}

// lead gives the rules that take a side's packets for a frontend.
func (f *family) lead(fe *routing.Frontend, outside bool) []string {
	to := target(fe, outside)
	switch {
	case to == "":
		to = "ACCEPT" // as it is: it is refused or dropped later
	case guarded(fe):
		to = guardName(fe.Key, outside)
	}
	return []string{matchOf(fe.Key) + title(fe) + " -j " + to}
}

// close gives the rule for packets of a frontend that nobody translated.
func (f *family) close(_ routing.Key, fe *routing.Frontend) []string {
	what := ""
	for _, v := range []routing.Verdict{fe.Verdicts[routing.Workload], fe.Verdicts[routing.Outside]} {
		switch {
		case v.Action == routing.Drop || guarded(fe):
			what = "DROP"
		case target(fe, false) == "" && target(fe, true) == "" && what == "":
			what = refuseChain
		}
	}
	if what == "" {
		return nil
	}
	return []string{matchOf(fe.Key) + title(fe) + " -j " + what}
}

// closeAddress refuses the other ports of a cluster IP.
func (f *family) closeAddress(last routing.Key) []string {
	for k, fe := range f.closed.leaves[f.closed.path(last)[1]] {
		if k.Addr == last.Addr && fe.Kind == routing.ClusterIP {
			return []string{"-d " + whole(last.Addr) + " -j " + refuseChain}
		}
	}
	return nil
}

// put takes a frontend; nil: it goes.
func (f *family) put(key routing.Key, fe *routing.Frontend) {
	old := f.frontends[key]
	if fe == nil {
		delete(f.frontends, key)
	} else {
		f.frontends[key] = fe
	}
	in, out, no := f.addresses, f.outside, f.closed
	if key.AnyNode() {
		in, out, no = f.node, f.outNode, f.closedNode
	}
	member := func(t *tree, is bool) {
		var now *routing.Frontend
		if is {
			now = fe
		}
		for _, name := range t.put(key, now) {
			f.dirty[chain{t.table, name}] = func() ([]string, bool) { return t.render(name) }
		}
	}
	member(in, fe != nil && target(fe, false) != "")
	member(out, fe != nil && target(fe, false) != target(fe, true))
	member(no, fe != nil && (fe.Kind == routing.ClusterIP || len(f.close(key, fe)) > 0))
	member(f.balancers, fe != nil && fe.Kind == routing.LoadBalancerIP)
	member(f.externals, fe != nil && fe.Kind == routing.ExternalIP)
	member(f.sources, fe != nil && key.Protocol == catalog.UDP && (fe.Kind == routing.LoadBalancerIP || fe.Kind == routing.ExternalIP))
	for _, outside := range []bool{false, true} {
		f.use(use{key, outside}, old, fe)
		if old != nil && guarded(old) || fe != nil && guarded(fe) {
			f.guard(key, outside, fe)
		}
	}
}

// use changes which set a side of a frontend leads to.
func (f *family) use(u use, old, now *routing.Frontend) {
	before, after := "", ""
	if old != nil {
		before = target(old, u.outside)
	}
	if now != nil {
		after = target(now, u.outside)
	}
	if s := f.sets[before]; s != nil && before != after {
		delete(s.users, u)
		f.dirtySets[before] = true
	}
	if after == "" {
		return
	}
	s := f.sets[after]
	if s == nil {
		s = &set{name: after, users: map[use]bool{}}
		f.sets[after] = s
	}
	s.users[u] = true
	s.from, s.action = now, now.Verdicts[routing.Workload].Action
	if u.outside {
		s.action = now.Verdicts[routing.Outside].Action
	}
	f.dirtySets[after] = true
}

// guard plans the chain that lets only some sources use a frontend.
func (f *family) guard(key routing.Key, outside bool, fe *routing.Frontend) {
	name := chain{nat, guardName(key, outside)}
	f.dirty[name] = func() ([]string, bool) {
		if fe == nil || !guarded(fe) || target(fe, outside) == "" || outside && target(fe, false) == target(fe, true) {
			return nil, false
		}
		var rules []string
		for _, p := range f.admits(fe) {
			rules = append(rules, "-s "+p.String()+" -j "+target(fe, outside))
		}
		return append(rules, "-j ACCEPT"), true
	}
}

// guarded reports whether only some clients may use a frontend.
func guarded(fe *routing.Frontend) bool {
	everybody := func(p netip.Prefix) bool { return p.Bits() == 0 && p.Addr().Is6() == fe.Addr.Is6() }
	return fe.Kind == routing.LoadBalancerIP && len(fe.SourceRanges) > 0 && !slices.ContainsFunc(fe.SourceRanges, everybody)
}

// admits gives who may use a frontend. A node that may comes also from the address itself,
// when it has it (DP-14).
func (f *family) admits(fe *routing.Frontend) (out []netip.Prefix) {
	out = f.of(fe.SourceRanges)
	if slices.ContainsFunc(out, func(p netip.Prefix) bool { return slices.ContainsFunc(f.nodes, p.Contains) }) {
		out = append(out, netip.PrefixFrom(fe.Addr, fe.Addr.BitLen()))
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// setNodes replaces the addresses of node ports, and what depends on them.
func (f *family) setNodes(addrs []netip.Addr) {
	f.nodes = nil
	for _, a := range addrs {
		if a.Is6() == f.v6 {
			f.nodes = append(f.nodes, a)
		}
	}
	f.fix()
	for key, fe := range f.frontends {
		if guarded(fe) {
			f.guard(key, false, fe)
			f.guard(key, true, fe)
		}
	}
}

// isNode tells whether node ports answer at an address.
func (f *family) isNode(a netip.Addr) bool {
	return slices.Contains(f.nodes, a) || f.local && a.IsLoopback()
}

// all plans everything: after a reading.
func (f *family) all() {
	f.fix()
	for _, t := range f.trees() {
		f.dirty[chain{t.table, t.root}] = func() ([]string, bool) { return t.render(t.root) }
	}
	for c := range f.held {
		if f.dirty[c] == nil {
			f.dirty[c] = func() ([]string, bool) { return nil, false }
		}
	}
}

// update is a chain that is to be written, or to go.
type update struct {
	chain
	rules  []string
	gone   bool
	digest uint64
}

// updates gives what differs from what the kernel holds.
func (f *family) updates() (out []update) {
	for name := range f.dirtySets {
		s := f.sets[name]
		var now map[string][]string
		if len(s.users) > 0 {
			now = s.render(f.mark)
		} else {
			delete(f.sets, name)
		}
		for _, old := range s.chains {
			f.dirty[chain{nat, old}] = func() ([]string, bool) { return nil, false }
		}
		s.chains = s.chains[:0]
		for c, rules := range now {
			s.chains = append(s.chains, c)
			f.dirty[chain{nat, c}] = func() ([]string, bool) { return rules, true }
		}
	}
	for c, content := range f.dirty {
		rules, is := content()
		before, was := f.held[c]
		if !is {
			if was {
				out = append(out, update{chain: c, gone: true})
			}
			continue
		}
		if d := digest(rules); !was || d != before {
			out = append(out, update{chain: c, rules: rules, digest: d})
		}
	}
	clear(f.dirty)
	clear(f.dirtySets)
	sortUpdates(out)
	return out
}

// took notes what the kernel has taken.
func (f *family) took(updates []update) {
	for _, u := range updates {
		if u.gone {
			delete(f.held, u.chain)
		} else {
			f.held[u.chain] = u.digest
		}
	}
}

var seed = maphash.MakeSeed()

// digest stands for the rules of a chain in this process.
func digest(rules []string) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, r := range rules {
		h.WriteString(r)  //nolint:errcheck // it never fails
		h.WriteByte('\n') //nolint:errcheck // likewise
	}
	return h.Sum64()
}
