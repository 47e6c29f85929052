package nftables

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/dataplane"
)

// chainSpec is a chain with its rules; a base chain has a type and a hook.
type chainSpec struct {
	name     string
	kind     string // "nat" or "filter"; "" for a chain that others jump to
	hook     uint32
	priority int32
	rules    []ruleSpec
}

type ruleSpec struct {
	comment string
	exprs   []expr
	why     dataplane.Reason // of the packets that it counts; "" for none
}

func rule(comment string, parts ...[]expr) ruleSpec {
	return ruleSpec{comment: comment, exprs: slices.Concat(parts...)}
}

func one(e ...expr) []expr { return e }

// Priorities of the hooks (linux/netfilter_ipv4.h): destination NAT's own, a
// little later for packets that no frontend took, source NAT's own; and just before
// the first two what is there for some packets' sake only.
const (
	priorityGuard    = -101
	priorityDNAT     = -100
	priorityEnded    = -91
	priorityUnserved = -90
	prioritySNAT     = 100
)

// chains gives all fixed chains of a family: first those that are jumped to. The workloads are
// the ranges of both families.
func (f *family) chains(hairpinSource netip.Addr, workloads []netip.Prefix) []chainSpec {
	// frontend loads the key of a map or set of frontends.
	frontend := func(nodePort bool) []expr {
		key, _ := f.frontend(nodePort)
		if nodePort {
			return append([]expr{f.destAddress(0), inSet(nodeAddressesSet)}, key...)
		}
		return key
	}
	serve := func(set string, nodePort bool) ruleSpec {
		return rule("", frontend(nodePort), one(mapTo(set), keepCode(), goTo("choose")))
	}
	refusing := func(why dataplane.Reason, comment, set string, nodePort bool, what expr) ruleSpec {
		return counted(why, rule(comment, frontend(nodePort), one(inSet(set), what)))
	}
	dropped := []ruleSpec{
		refusing(dataplane.NoLocalEndpoint, "frontends with usable endpoints on other nodes only", droppedServicesSet, false, drop()),
		refusing(dataplane.NoLocalEndpoint, "", droppedNodePortsSet, true, drop()),
	}
	// neverShown drops an answer of a backend that conntrack finds invalid (out of the window,
	// say). It keeps the backend's address as its source, so that whoever gets it, a client or
	// this node in its place, would reset a healthy connection (kubernetes/kubernetes#74839).
	neverShown := func(comment, backends string) ruleSpec {
		return counted(dataplane.Invalid, rule(comment, invalidPacket(), isProtocol(unix.IPPROTO_TCP), one(f.sourceAddress(0), inSet(backends), drop())))
	}

	chains := []chainSpec{
		{name: refuseChain, rules: []ruleSpec{
			rule("", isProtocol(unix.IPPROTO_TCP), one(rejectReset())),
			rule("", one(rejectICMP(f.portUnreachable))),
		}},
		turnAway(),
		f.forgetDead(),
		f.guardChain(),
		{name: leaveChain, rules: []ruleSpec{rule("", forgetCode(), one(verdictNow(verdictAccept, "")))}},
		{name: "choose", rules: []ruleSpec{followed(), rule("", one(loadCode(), verdictOf(choicesMap)))}},
		{name: "serve", rules: []ruleSpec{serve(servicesMap, false), serve(nodePortsMap, true)}},
		{name: "serve-outside", rules: []ruleSpec{serve(outsideServicesMap, false), serve(outsideNodePortsMap, true)}},
		reportStray(dropped),
		{name: translatedChain, rules: []ruleSpec{forgetHandle()}},
		{name: "unserved", rules: slices.Concat([]ruleSpec{
			rule("", wasTranslated(), one(goTo(translatedChain))),
			refusing(dataplane.NoEndpoint, "frontends without a usable endpoint", refusedServicesSet, false, goTo(refuseChain)),
			refusing(dataplane.NoEndpoint, "", refusedNodePortsSet, true, goTo(refuseChain)),
			// Before what drops: that is for clients outside, and others are served.
			astray(frontend(false), servicesMap), astray(frontend(true), nodePortsMap),
		}, dropped, []ruleSpec{
			counted(dataplane.UnknownPort, rule("other ports of cluster IPs", one(f.destAddress(0), inSet(clusterIPsSet), goTo(refuseChain)))),
			counted(dataplane.UnknownAddress, rule("addresses that no Service has", one(f.destAddress(0), inSet(serviceRangesSet), drop()))),
		})},
		{name: "prerouting", kind: "nat", hook: unix.NF_INET_PRE_ROUTING, priority: priorityDNAT, rules: slices.Concat([]ruleSpec{
			f.answersItself(),
		}, f.fromWorkloads(workloads, "serve"), []ruleSpec{
			rule("what differs for clients outside", one(jump("serve-outside"))),
			rule("", one(goTo("serve"))),
		})},
		{name: "output", kind: "nat", hook: unix.NF_INET_LOCAL_OUT, priority: priorityDNAT, rules: []ruleSpec{
			rule("", one(jump("serve"))),
		}},
		{name: itselfChain, rules: []ruleSpec{
			rule("a backend reaches itself", one(f.sourceAddress(0), f.destAddress(f.addrLen/4), inSet(hairpinSet)), f.hairpin(hairpinSource)),
		}},
		{name: toBackendsChain, rules: append(f.fromWorkloads(workloads, itselfChain),
			// First: a backend outside the cluster that reaches itself by this node has no
			// route to the address that hairpins of workloads get.
			rule("answers from other nodes come back through this one", one(f.destAddress(0), inSet(remoteBackendsSet), masquerade())),
			rule("", one(goTo(itselfChain))),
		)},
		{name: "postrouting", kind: "nat", hook: unix.NF_INET_POST_ROUTING, priority: prioritySNAT, rules: []ruleSpec{
			rule("", wasTranslated(), one(goTo(toBackendsChain))),
		}},
		{name: "prerouting-unserved", kind: "filter", hook: unix.NF_INET_PRE_ROUTING, priority: priorityUnserved, rules: append(
			f.unserved(),
			f.atForeignDoor(loadBalancerIPsSet), f.atForeignDoor(externalIPsSet),
			neverShown("never shown to clients: they would reset the connection", workloadRangesSet),
			neverShown("", remoteBackendsSet),
		)},
		{name: "output-unserved", kind: "filter", hook: unix.NF_INET_LOCAL_OUT, priority: priorityUnserved, rules: f.unserved()},
	}
	// Last: what an older version calls so is deleted only after the rules that jump there.
	chains = append(chains, f.guarding()...)
	if f.resets {
		chains = append(chains, f.answering()...)
	}
	return chains
}

// hairpin gives the source NAT of a backend that reaches itself. The address
// must not be a link's: a guest's link has none of its own, and masquerade would
// take any of the host's.
func (f *family) hairpin(source netip.Addr) []expr {
	if !source.IsValid() {
		return one(masquerade())
	}
	return one(load(word(0), source.AsSlice()), fromAddress(f.nf))
}

// fromWorkloads leads packets from workloads to a chain. Comparing costs the packet less than
// a set of ranges does, and there are one or two.
func (f *family) fromWorkloads(ranges []netip.Prefix, chain string) (rules []ruleSpec) {
	for _, p := range ranges {
		if p = p.Masked(); p.Addr().BitLen() != 8*f.addrLen {
			continue
		}
		source, address := f.sourcePrefix(p.Bits()), p.Addr().AsSlice()
		if n := p.Bits() / 8; n > 0 && n*8 == p.Bits() { // as nft loads it
			source, address = one(payload(unix.NFT_PAYLOAD_NETWORK_HEADER, f.source, uint32(n), word(0))), address[:n]
		}
		rules = append(rules, rule("", source, one(compare(unix.NFT_CMP_EQ, word(0), address), goTo(chain))))
	}
	return rules
}

// unserved gives the rules for packets that the NAT hook left as they were.
func (f *family) unserved() []ruleSpec {
	rules := []ruleSpec{
		// Most packets are of connections: they meet this rule and no other.
		rule("", establishedConnection(), one(verdictNow(verdictAccept, ""))),
		rule("", newConnection(), one(jump("unserved"))),
		counted(dataplane.Invalid, rule("a reset for these would end a healthy connection", invalidPacket(), one(f.destAddress(0), inSet(serviceRangesSet), drop()))),
	}
	if f.nf == unix.NFPROTO_IPV6 {
		// A hairpin packet leaves by the link it came in on, for which IPv6
		// sends redirects (RFC 4861 section 8) and has no switch as IPv4 does.
		const ndRedirect = 137
		kind := payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1, word(0))
		rules = append(rules, rule("all links of workloads are routed", isProtocol(unix.IPPROTO_ICMPV6),
			one(kind, compare(unix.NFT_CMP_EQ, word(0), []byte{ndRedirect}), f.destAddress(0), inSet(workloadRangesSet), drop())))
	}
	return rules
}

// encode gives the expressions of a rule as NFTA_RULE_EXPRESSIONS holds them.
func (r *ruleSpec) encode() attrs {
	var a attrs
	for _, e := range r.exprs {
		e(&a)
	}
	return a
}

// rangeElements gives the elements of an interval set: for each range its first
// address and the one after its last. Overlapping and adjacent prefixes must be
// one range.
func rangeElements(prefixes []netip.Prefix, v6 bool) []element {
	type span struct{ first, after netip.Addr } // after is invalid at the end of the address space
	var spans []span
	for _, p := range prefixes {
		if p = p.Masked(); p.Addr().Is6() == v6 {
			spans = append(spans, span{p.Addr(), lastOf(p).Next()})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.first.Compare(b.first) })
	var merged []span
	for _, s := range spans {
		if n := len(merged); n > 0 && (!merged[n-1].after.IsValid() || s.first.Compare(merged[n-1].after) <= 0) {
			if m := &merged[n-1]; m.after.IsValid() && (!s.after.IsValid() || m.after.Less(s.after)) {
				m.after = s.after
			}
			continue
		}
		merged = append(merged, s)
	}
	var out []element
	for _, s := range merged {
		out = append(out, element{key: string(s.first.AsSlice())})
		if s.after.IsValid() {
			out = append(out, element{key: string(s.after.AsSlice()), end: true})
		}
	}
	return out
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
