package ipvs

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Priorities in the hooks. IPVS has its own (ip_vs_core.c): in LOCAL_IN 99, in LOCAL_OUT
// -98, so that what it left alone is seen after. All chains that translate destinations
// work at -100, whatever their priority, which orders them among each other alone
// (nf_nat_core.c); what they lead to a virtual server gets its mark between.
const (
	priorityGuard     = -115
	priorityLead      = -110
	priorityMark      = -99
	priorityUntaken   = -90
	priorityUntakenIn = 101
	prioritySource    = 100
	priorityUnmark    = 110
)

// Registers that keys are put together in (NFT_REG32_00 and following).
const (
	regKey  = unix.NFT_REG32_00
	regAddr = unix.NFT_REG32_08
	regPort = unix.NFT_REG32_12
)

const (
	refuseChain  = "refuse"
	markChain    = "mark"
	turnAwayName = "turn-away"
	leadInChain  = "lead-prerouting"
)

// site is what the rules depend on besides frontends.
type site struct {
	workloads []netip.Prefix
	services  []netip.Prefix
	hairpin   [2]netip.Addr // the source that a backend sees when it reaches itself; invalid: none
	mark      uint32
}

// chainSpec is a chain; a base chain has a type.
type chainSpec struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority nftables.ChainPriority
	rules    [][]expr.Any
}

// rule joins the parts of a rule.
func rule(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// chains gives all chains, those that are jumped to first.
func (f *family) chains(s *site) []chainSpec {
	i := 0
	if f.v6 {
		i = 1
	}
	marked := meta(expr.MetaKeyMARK, s.mark)
	out := []chainSpec{
		{name: refuseChain, rules: [][]expr.Any{
			rule(protocol(unix.IPPROTO_TCP), one(&expr.Reject{Type: unix.NFT_REJECT_TCP_RST})),
			rule(one(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: f.portUnreachable()})),
		}},
		f.marking(s),
		{name: turnAwayName, rules: [][]expr.Any{
			rule(state(expr.CtStateBitNEW), verdict(expr.VerdictGoto, refuseChain)),
			rule(verdict(expr.VerdictDrop, "")),
		}},
		f.leading("inside", ledInsideMap), f.leading("outside", ledOutsideMap),
		f.sorting("inside", refusedInsideSet, droppedInsideSet, s), f.sorting("outside", refusedOutsideSet, droppedOutsideSet, s),
		f.guarding(s, false), f.guarding(s, true),
	}
	toInside := func(chain string) (rules [][]expr.Any) {
		for _, p := range s.workloads {
			if p.Addr().Is6() == f.v6 {
				rules = append(rules, rule(f.in(p, f.source()), verdict(expr.VerdictGoto, chain)))
			}
		}
		return rules
	}
	carried := rule(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), f.door(), has(f.sets[virtualSet]), verdict(expr.VerdictGoto, markChain))
	// A flow of datagrams that began before its virtual server was there: IPVS would take it,
	// and conntrack its answers for another flow, for as long as it lasts. See freshSet.
	old := rule(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), protocol(unix.IPPROTO_UDP), f.door(), has(f.sets[freshSet]), verdict(expr.VerdictDrop, ""))
	known := rule(state(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept, ""))
	// What no frontend took would circle between this node and the one that sent it, till
	// its TTL ends.
	astray := rule(f.has(doorsSet, f.destination()), notOurAddress(), leavesWhereItCame(), verdict(expr.VerdictGoto, turnAwayName))
	sortIn := append([][]expr.Any{old, carried, known}, toInside("sort-inside")...)
	out = append(out,
		chainSpec{leadInChain, nftables.ChainTypeNAT, nftables.ChainHookPrerouting, priorityLead, append(toInside("lead-inside"), rule(verdict(expr.VerdictGoto, "lead-outside")))},
		chainSpec{"lead-output", nftables.ChainTypeNAT, nftables.ChainHookOutput, priorityLead, [][]expr.Any{rule(verdict(expr.VerdictGoto, "lead-inside"))}},
		chainSpec{"sort-prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityMark, append(sortIn, rule(verdict(expr.VerdictGoto, "sort-outside")))},
		chainSpec{"sort-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, priorityMark, [][]expr.Any{
			rule(marked, verdict(expr.VerdictAccept, "")), // IPVS has translated it
			old, carried, known, rule(verdict(expr.VerdictGoto, "sort-inside")),
		}},
		chainSpec{"astray", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityUntaken, [][]expr.Any{
			rule(marked, verdict(expr.VerdictAccept, "")), known, astray,
		}},
		// IPVS leaves alone what begins no connection and belongs to none: its backend is gone.
		chainSpec{"untaken-input", nftables.ChainTypeFilter, nftables.ChainHookInput, priorityUntakenIn, [][]expr.Any{
			rule(marked, f.door(), has(f.sets[virtualSet]), verdict(expr.VerdictGoto, refuseChain)),
		}},
		chainSpec{"untaken-output", nftables.ChainTypeFilter, nftables.ChainHookOutput, priorityUntaken, [][]expr.Any{
			rule(marked, f.door(), has(f.sets[virtualSet]), verdict(expr.VerdictGoto, refuseChain)),
		}},
		chainSpec{"source", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, prioritySource, f.sources(s, i)},
		// A mark that stays would lead what a tunnel makes of the packet back to this host.
		chainSpec{"unmark", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, priorityUnmark, [][]expr.Any{
			rule(marked, setMark(s.mark, 0)),
		}},
	)
	return out
}

// leading sends first packets of doors to the virtual server that takes them.
func (f *family) leading(side string, m set) chainSpec {
	words := f.words()
	return chainSpec{name: "lead-" + side, rules: [][]expr.Any{rule(f.door(), one(
		&expr.Lookup{SourceRegister: regKey, SetName: f.sets[m].Name, SetID: f.sets[m].ID, DestRegister: regAddr, IsDestRegSet: true},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: f.nf(), RegAddrMin: regAddr, RegProtoMin: regAddr + words, Specified: true},
	))}}
}

// sorting says what happens to first packets by their door.
func (f *family) sorting(side string, refused, dropped set, s *site) chainSpec {
	c := chainSpec{name: "sort-" + side, rules: [][]expr.Any{
		rule(notState(expr.CtStateBitNEW), verdict(expr.VerdictReturn, "")),
		rule(f.door(), has(f.sets[refused]), verdict(expr.VerdictGoto, refuseChain)),
		rule(f.door(), has(f.sets[dropped]), verdict(expr.VerdictDrop, "")),
		rule(f.door(), has(f.sets[virtualSet]), verdict(expr.VerdictGoto, markChain)),
		rule(f.has(clusterIPsSet, f.destination()), verdict(expr.VerdictGoto, refuseChain)),
	}}
	for _, p := range s.services {
		if p.Addr().Is6() == f.v6 {
			c.rules = append(c.rules, rule(f.in(p, f.destination()), verdict(expr.VerdictDrop, "")))
		}
	}
	return c
}

// marking leads packets to virtual servers.
func (f *family) marking(s *site) chainSpec {
	c := chainSpec{name: markChain}
	if f.v6 { // a datagram without checksum is an error (RFC 8200, section 8.1), and IPVS would mend it
		c.rules = append(c.rules, rule(protocol(unix.IPPROTO_UDP), one(
			&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseTransportHeader, Offset: 6, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: []byte{0, 0}},
		), verdict(expr.VerdictDrop, "")))
	}
	c.rules = append(c.rules, rule(setMark(s.mark, s.mark)))
	return c
}

// guarding drops what nobody may send, before anything is translated.
func (f *family) guarding(s *site, output bool) chainSpec {
	c := chainSpec{"guard-prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, priorityGuard, nil}
	if output {
		c.name, c.hook = "guard-output", nftables.ChainHookOutput
	}
	if output && f.v6 {
		// A hairpin packet leaves by the link it came in on, for which IPv6 sends redirects
		// (RFC 4861 section 8) and has no switch as IPv4 does.
		for _, p := range s.workloads {
			if p.Addr().Is6() {
				const redirect = 137
				c.rules = append(c.rules, rule(protocol(unix.IPPROTO_ICMPV6), one(
					&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
					&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: []byte{redirect}},
				), f.in(p, f.destination()), verdict(expr.VerdictDrop, "")))
			}
		}
	}
	if !output {
		// An answer of ours to a forged source that is a door comes back, and would go round
		// till its TTL ends.
		c.rules = append(c.rules, rule(fromElsewhere(), f.has(doorsSet, f.destination()), f.has(doorsSet, f.source()), verdict(expr.VerdictDrop, "")))
	}
	if !output && f.v6 { // IPv4 does so by itself
		c.rules = append(c.rules, rule(fromElsewhere(), f.has(doorsSet, f.destination()), ourSource(), verdict(expr.VerdictDrop, "")))
	}
	c.rules = append(c.rules,
		// A frontend is nobody's client: two of them would answer each other for ever.
		rule(state(expr.CtStateBitNEW), protocol(unix.IPPROTO_UDP), f.doorAsSource(), has(f.sets[virtualSet]), verdict(expr.VerdictDrop, "")),
		rule(state(expr.CtStateBitNEW), f.door(), has(f.sets[guardedSet]), f.sourceAndDoor(), hasNot(f.sets[admittedSet]), verdict(expr.VerdictDrop, "")),
	)
	if !output {
		// An answer of a backend that conntrack finds invalid (out of the window, say) keeps
		// the backend's address; a client that saw it would reset a healthy connection
		// (kubernetes/kubernetes#74839).
		for _, p := range s.workloads {
			if p.Addr().Is6() == f.v6 {
				c.rules = append(c.rules, rule(state(expr.CtStateBitINVALID), protocol(unix.IPPROTO_TCP), f.in(p, f.source()), verdict(expr.VerdictDrop, "")))
			}
		}
	}
	for _, p := range s.services {
		if p.Addr().Is6() == f.v6 {
			c.rules = append(c.rules, rule(state(expr.CtStateBitINVALID), f.in(p, f.destination()), verdict(expr.VerdictDrop, "")))
		}
	}
	return c
}

// sources changes sources of what IPVS has translated, where answers wouldn't come back.
func (f *family) sources(s *site, i int) (rules [][]expr.Any) {
	marked := meta(expr.MetaKeyMARK, s.mark)
	own := one(&expr.Masq{FullyRandom: true})
	if a := s.hairpin[i]; a.IsValid() {
		own = one(&expr.Immediate{Register: regAddr, Data: a.AsSlice()}, &expr.NAT{Type: expr.NATTypeSourceNAT, Family: f.nf(), RegAddrMin: regAddr})
	}
	stranger := marked
	for _, p := range s.workloads {
		if p.Addr().Is6() == f.v6 {
			stranger = append(append([]expr.Any{}, stranger...), f.notIn(p, f.source())...)
		}
	}
	both := one(
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: f.source(), Len: f.addrLen()},
		&expr.Payload{DestRegister: regKey + f.words(), Base: expr.PayloadBaseNetworkHeader, Offset: f.destination(), Len: f.addrLen()},
	)
	return [][]expr.Any{
		// First: a backend outside the cluster that reaches itself by this node has no route
		// to the address that hairpins of workloads get.
		rule(stranger, f.hasNot(localSet, f.destination()), one(&expr.Masq{FullyRandom: true})),
		rule(marked, both, has(f.sets[hairpinSet]), own),
	}
}

func one(e ...expr.Any) []expr.Any { return e }

// portUnreachable is ICMP's code (RFC 792) or ICMPv6's (RFC 4443).
func (f *family) portUnreachable() uint8 {
	if f.v6 {
		return 4
	}
	return 3
}

func (f *family) nf() uint32 {
	if f.v6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

func (f *family) addrLen() uint32 {
	if f.v6 {
		return 16
	}
	return 4
}

func (f *family) words() uint32 { return f.addrLen() / 4 }

// source and destination are offsets in the IP header.
func (f *family) source() uint32 {
	if f.v6 {
		return 8
	}
	return 12
}

func (f *family) destination() uint32 { return f.source() + f.addrLen() }

// tuple puts an address, the protocol and a port together, behind at registers.
func (f *family) tuple(at, addr, port uint32) []expr.Any {
	return one(
		&expr.Payload{DestRegister: regKey + at, Base: expr.PayloadBaseNetworkHeader, Offset: addr, Len: f.addrLen()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey + at + f.words()},
		&expr.Payload{DestRegister: regKey + at + f.words() + 1, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
	)
}

func (f *family) door() []expr.Any         { return f.tuple(0, f.destination(), 2) }
func (f *family) doorAsSource() []expr.Any { return f.tuple(0, f.source(), 0) }

func (f *family) sourceAndDoor() []expr.Any {
	return append(one(
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: f.source(), Len: f.addrLen()},
	), f.tuple(f.words(), f.destination(), 2)...)
}

func has(set *nftables.Set) []expr.Any {
	return one(&expr.Lookup{SourceRegister: regKey, SetName: set.Name, SetID: set.ID})
}

func hasNot(set *nftables.Set) []expr.Any {
	return one(&expr.Lookup{SourceRegister: regKey, SetName: set.Name, SetID: set.ID, Invert: true})
}

// has matches an address at an offset that is in a set, hasNot one that isn't.
func (f *family) has(s set, offset uint32) []expr.Any {
	return append(one(
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.addrLen()},
	), has(f.sets[s])...)
}

func (f *family) hasNot(s set, offset uint32) []expr.Any {
	return append(one(
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.addrLen()},
	), hasNot(f.sets[s])...)
}

// in matches an address at an offset that is in p, notIn one that isn't.
func (f *family) in(p netip.Prefix, offset uint32) []expr.Any {
	return f.prefix(p, offset, expr.CmpOpEq)
}

func (f *family) notIn(p netip.Prefix, offset uint32) []expr.Any {
	return f.prefix(p, offset, expr.CmpOpNeq)
}

func (f *family) prefix(p netip.Prefix, offset uint32, op expr.CmpOp) []expr.Any {
	mask := make([]byte, f.addrLen())
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return one(
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.addrLen()},
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: f.addrLen(), Mask: mask, Xor: make([]byte, f.addrLen())},
		&expr.Cmp{Op: op, Register: regKey, Data: p.Masked().Addr().AsSlice()},
	)
}

func protocol(number byte) []expr.Any {
	return one(
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: []byte{number}},
	)
}

// state matches packets that conntrack finds in one of the states, notState all others.
func state(bits uint32) []expr.Any { return stateIs(bits, expr.CmpOpNeq) }

func notState(bits uint32) []expr.Any { return stateIs(bits, expr.CmpOpEq) }

func stateIs(bits uint32, op expr.CmpOp) []expr.Any {
	return append(one(&expr.Ct{Key: expr.CtKeySTATE, Register: regKey}), masked(bits, op)...)
}

// meta matches packets that have one of the bits of a mark.
func meta(key expr.MetaKey, bits uint32) []expr.Any {
	return append(one(&expr.Meta{Key: key, Register: regKey}), masked(bits, expr.CmpOpNeq)...)
}

func masked(bits uint32, op expr.CmpOp) []expr.Any {
	return one(
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: regKey, Data: make([]byte, 4)},
	)
}

// setMark sets those bits of the packet's mark that are in mask.
func setMark(mask, bits uint32) []expr.Any {
	return one(
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regKey},
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(^mask), Xor: binaryutil.NativeEndian.PutUint32(bits)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: regKey},
	)
}

// fromElsewhere matches packets that didn't come by the loopback link.
func fromElsewhere() []expr.Any {
	return one(
		&expr.Meta{Key: expr.MetaKeyIIF, Register: regKey},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regKey, Data: binaryutil.NativeEndian.PutUint32(loopback)},
	)
}

// ourSource matches packets that have one of the node's own addresses as their source.
func ourSource() []expr.Any {
	return one(
		&expr.Fib{Register: regKey, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	)
}

// notOurAddress leaves the rule when the destination is one of the node's own addresses.
func notOurAddress() []expr.Any {
	return one(
		&expr.Fib{Register: regKey, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regKey, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	)
}

// leavesWhereItCame leaves the rule unless the route to the destination goes out by the
// link that the packet came in on.
func leavesWhereItCame() []expr.Any {
	return one(
		&expr.Fib{Register: regKey, FlagDADDR: true, FlagIIF: true, FlagPRESENT: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: binaryutil.NativeEndian.PutUint32(1)},
	)
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return one(&expr.Verdict{Kind: kind, Chain: chain})
}
