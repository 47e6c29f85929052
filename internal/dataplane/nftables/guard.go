package nftables

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

// Source ranges of load-balancer addresses. The kernel's own sets of ranges with
// several fields are copied at each change; so there is a plain set for each
// length of prefix that occurs, and a rule that looks the masked source up in it.
// A change costs the elements that it changes.

func admittedName(bits int) string { return admittedSetsNamed + strconv.Itoa(bits) }

// admittedSet holds "source prefix . address . protocol . port".
func (f *family) admittedSet(bits int) setSpec {
	return setSpec{name: admittedName(bits), keyType: concat(f.addrType, f.addrType, typeProto, typeService), keyLen: 2*f.addrLen + 8, admitted: true}
}

// guardChain ends in a drop for sources that no set admits.
func (f *family) guardChain() chainSpec {
	c := chainSpec{name: guardChain}
	for _, bits := range f.lengths {
		c.rules = append(c.rules, rule("", f.admittedKey(bits), one(inSet(admittedName(bits)), verdictNow(verdictReturn, ""))))
	}
	c.rules = append(c.rules, counted(dataplane.OutsideRanges, rule("outside the source ranges", one(drop()))))
	return c
}

// guarding are the chains that lead packets for frontends with source ranges past the guard.
// There are none as long as there is no such frontend, so that connections don't pay for the look-up.
func (f *family) guarding() []chainSpec {
	if len(f.lengths) == 0 {
		return nil
	}
	key, _ := f.frontend(false)
	rules := []ruleSpec{rule("load-balancer addresses with source ranges", key, one(inSet(guardedServicesSet), jump(guardChain)))}
	return []chainSpec{
		{name: "guarding", kind: "nat", hook: unix.NF_INET_PRE_ROUTING, priority: priorityGuard, rules: rules},
		{name: "guarding-output", kind: "nat", hook: unix.NF_INET_LOCAL_OUT, priority: priorityGuard, rules: rules},
	}
}

// admittedKey loads the masked source and the frontend.
func (f *family) admittedKey(bits int) []expr {
	w := f.addrLen / 4
	return append(f.sourcePrefix(bits), f.destAddress(w), transportProtocol(word(2*w)), destinationPort(word(2*w+1)))
}

// sourcePrefix loads the source's first bits. A whole address needs no mask, and nft would
// leave that out when it prints the rule.
func (f *family) sourcePrefix(bits int) []expr {
	source := one(f.sourceAddress(0))
	if bits < 8*f.addrLen {
		source = append(source, mask(word(0), prefixMask(bits, f.addrLen)))
	}
	return source
}

func prefixMask(bits, bytes int) []byte {
	m := make([]byte, bytes)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// guarded reports whether only some clients may use f.
func guarded(f *routing.Frontend) bool {
	everybody := func(p netip.Prefix) bool { return p.Bits() == 0 && p.Addr().Is6() == f.Addr.Is6() }
	return f != nil && len(f.SourceRanges) > 0 && !slices.ContainsFunc(f.SourceRanges, everybody)
}

// admits gives the prefixes that may use f: its ranges of f's family, and the
// address itself where one of the node's own addresses is in a range, because a
// node that owns a load-balancer address uses it as its source. Ranges of the
// other family alone admit nobody.
func (k *kernel) admits(f *routing.Frontend) (out []netip.Prefix) {
	node := false
	for _, r := range f.SourceRanges {
		if r.Addr().Is6() != f.Addr.Is6() {
			continue
		}
		out = append(out, r.Masked())
		node = node || slices.ContainsFunc(k.nodes[index(f.Addr)].wanted(), r.Contains)
	}
	if node {
		out = append(out, netip.PrefixFrom(f.Addr, f.Addr.BitLen()))
	}
	slices.SortFunc(out, comparePrefixes)
	return slices.Compact(out)
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// guard plans who may use a frontend; f is nil for one that goes.
func (p plan) guard(h *held, f *routing.Frontend) {
	var want []netip.Prefix
	on := guarded(f)
	if on {
		want = p.k.admits(f)
		p.k.guarded[f.Key] = true
	} else {
		delete(p.k.guarded, p.of)
	}
	if on != h.guarded {
		e := element{key: string(p.key)}
		if on {
			p.k.now.add(p.i, guardedServicesSet, e)
		} else {
			p.k.now.del(p.i, guardedServicesSet, e)
		}
		h.guarded = on
	}
	for _, r := range h.admitted {
		if !slices.Contains(want, r) {
			p.k.now.del(p.i, admittedName(r.Bits()), p.admittedElement(r))
		}
	}
	for _, r := range want {
		if !slices.Contains(h.admitted, r) {
			p.k.now.add(p.i, admittedName(r.Bits()), p.admittedElement(r))
		}
	}
	h.admitted = want
}

func (p plan) admittedElement(r netip.Prefix) element {
	return element{key: string(r.Addr().AsSlice()) + string(p.key)}
}

// adoptGuards takes who may use what.
func (k *kernel) adoptGuards(i int, t *tableReading) {
	f := k.families[i]
	for _, e := range t.elements[guardedServicesSet] {
		key, ok := f.parseFrontendKey(e.key, false)
		if !ok {
			k.now.del(i, guardedServicesSet, e)
			continue
		}
		k.heldFor(key).guarded = true
	}
	for _, bits := range f.lengths {
		for _, e := range t.elements[admittedName(bits)] {
			r, key, ok := f.parseAdmitted(e.key, bits)
			if !ok {
				k.now.del(i, admittedName(bits), e)
				continue
			}
			h := k.heldFor(key)
			h.admitted = append(h.admitted, r)
		}
	}
}

func (f *family) parseAdmitted(key string, bits int) (r netip.Prefix, k routing.Key, ok bool) {
	if len(key) < f.addrLen {
		return r, k, false
	}
	a, _ := netip.AddrFromSlice([]byte(key[:f.addrLen]))
	r = netip.PrefixFrom(a, bits)
	k, ok = f.parseFrontendKey(key[f.addrLen:], false)
	return r, k, ok && r == r.Masked()
}

// lengthsOf gives the lengths of prefixes that frontends need sets for, besides
// those in have: of their ranges, and of whole addresses (see admits).
func lengthsOf(frontends []*routing.Frontend, have [2][]int) (lengths [2][]int) {
	if !slices.ContainsFunc(frontends, guarded) {
		return have
	}
	for i := range lengths {
		seen := map[int]bool{}
		for _, bits := range have[i] {
			seen[bits] = true
		}
		for _, f := range frontends {
			if index(f.Addr) != i || !guarded(f) {
				continue
			}
			seen[f.Addr.BitLen()] = true
			for _, r := range f.SourceRanges {
				if r.Addr().Is6() == f.Addr.Is6() {
					seen[r.Bits()] = true
				}
			}
		}
		lengths[i] = slices.Sorted(maps.Keys(seen))
	}
	return lengths
}

// grow adds sets and rules for new lengths of prefixes and gives the messages
// that make them.
func (f *family) grow(lengths []int) (msgs []message) {
	if slices.Equal(lengths, f.lengths) {
		return nil
	}
	old := f.lengths
	f.lengths = lengths
	f.sets = f.allSets()
	for i := range f.sets {
		if s := &f.sets[i]; s.admitted && !slices.ContainsFunc(old, func(bits int) bool { return admittedName(bits) == s.name }) {
			msgs = append(msgs, f.setMessage(s, i+1))
		}
	}
	c := f.guardChain()
	msgs = append(append(msgs, f.flushMessage(c.name)), f.ruleMessages(&c)...)
	if len(old) == 0 {
		for _, c := range f.guarding() {
			msgs = append(msgs, f.chainMessages(&c)...)
		}
	}
	return msgs
}

// answersItself drops first datagrams whose source is a frontend. No client has such a
// source: one such datagram, forged, between frontends whose addresses lead back here
// would have two servers that answer everything answer each other for ever. What
// frontends answer to clients belongs to their connections and never gets here.
func (f *family) answersItself() ruleSpec {
	w := f.addrLen / 4
	source := append(isProtocol(unix.IPPROTO_UDP), f.sourceAddress(0), transportProtocol(word(w)), sourcePort(word(w+1)))
	// nft prints a look-up in a map only where its result is used.
	return counted(dataplane.Invalid, rule("a frontend is nobody's client", source, one(mapTo(servicesMap), keepCode(), drop())))
}

// atForeignDoor is for packets to a load-balancer address or external IP that no
// frontend took: another port, or what conntrack finds invalid. Where the address isn't
// the node's own the stack would send them back to where they came from, until their TTL
// ends: up to 255 packets for one. An address that is reached by another link is somebody
// else's machine.
func (f *family) atForeignDoor(set string) ruleSpec {
	return rule("other ports of "+set, one(f.destAddress(0), inSet(set)), notOurAddress(), leavesWhereItCame(), one(goTo(turnAwayChain)))
}

// turnAway ends what atForeignDoor found; an answer to what isn't new might end a
// healthy connection, or circle itself.
func turnAway() chainSpec {
	return chainSpec{name: turnAwayChain, rules: []ruleSpec{
		counted(dataplane.UnknownPort, rule("", newConnection(), one(goTo(refuseChain)))),
		counted(dataplane.Invalid, rule("", one(drop()))),
	}}
}

// notOurAddress leaves the rule when the destination is one of the node's own
// addresses (RTN_LOCAL).
func notOurAddress() []expr {
	return one(fib(unix.NFT_FIB_RESULT_ADDRTYPE, unix.NFTA_FIB_F_DADDR), compareWord(unix.NFT_CMP_NEQ, unix.RTN_LOCAL))
}

// leavesWhereItCame leaves the rule unless the route to the destination goes out by
// the link that the packet came in on.
func leavesWhereItCame() []expr {
	return one(fib(unix.NFT_FIB_RESULT_OIF, unix.NFTA_FIB_F_DADDR|unix.NFTA_FIB_F_IIF|unix.NFTA_FIB_F_PRESENT), compareWord(unix.NFT_CMP_EQ, 1))
}

func (f *family) describeAdmitted(s *setSpec, e element) (string, bool) {
	for _, bits := range f.lengths {
		if admittedName(bits) == s.name {
			r, key, ok := f.parseAdmitted(e.key, bits)
			return fmt.Sprintf("%s may use %s", r, key), ok
		}
	}
	return "", false
}
