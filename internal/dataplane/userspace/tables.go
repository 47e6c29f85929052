package userspace

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers that keys and results are put together in (NFT_REG32_00 and following): what
// leads to a result has a key of six of four bytes at most.
const (
	regKey  = unix.NFT_REG32_00
	regAddr = unix.NFT_REG32_08
	regPort = unix.NFT_REG32_12
)

// plan is elements to add or delete, by set.
type plan map[*nftables.Set][]nftables.SetElement

// side is who sends: workloads and this node, or everybody else.
type side struct {
	name     string
	redirect *nftables.Set // address . protocol . port : port of ours
	refused  *nftables.Set // address . protocol . port
	dropped  *nftables.Set // likewise
}

// sets are those of one family's table.
type sets struct {
	i               int
	of              *nftables.Table
	inside, outside side
	guarded         *nftables.Set // address . protocol . port that some sources may use only
	admitted        *nftables.Set // source . address . protocol . port: those that may
	nodes, ips      *nftables.Set // node-port addresses, Services' own
	add, del        plan
}

const refuseChain = "refuse"

func newSets(i int) *sets {
	family, addr := nftables.TableFamilyIPv4, nftables.TypeIPAddr
	if i == 1 {
		family, addr = nftables.TableFamilyIPv6, nftables.TypeIP6Addr
	}
	s := &sets{i: i, of: &nftables.Table{Name: Table, Family: family}, add: plan{}, del: plan{}}
	key := nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService)
	newSide := func(name string) side {
		return side{
			name,
			&nftables.Set{Table: s.of, Name: "redirect-" + name, KeyType: key, Concatenation: true, IsMap: true, DataType: nftables.TypeInetService},
			&nftables.Set{Table: s.of, Name: "refused-" + name, KeyType: key, Concatenation: true},
			&nftables.Set{Table: s.of, Name: "dropped-" + name, KeyType: key, Concatenation: true},
		}
	}
	s.inside, s.outside = newSide("inside"), newSide("outside")
	from := nftables.MustConcatSetType(addr, addr, nftables.TypeInetProto, nftables.TypeInetService)
	s.guarded = &nftables.Set{Table: s.of, Name: "guarded", KeyType: key, Concatenation: true}
	s.admitted = &nftables.Set{Table: s.of, Name: "admitted", KeyType: from, Concatenation: true, Interval: true}
	s.nodes = &nftables.Set{Table: s.of, Name: "node-addresses", KeyType: addr}
	s.ips = &nftables.Set{Table: s.of, Name: "service-addresses", KeyType: addr}
	return s
}

func (s *sets) name() string {
	if s.i == 1 {
		return "ip6 " + Table
	}
	return "ip " + Table
}

// all gives the sets, always in the same order.
func (s *sets) all() []*nftables.Set {
	return []*nftables.Set{
		s.inside.redirect, s.inside.refused, s.inside.dropped, s.outside.redirect, s.outside.refused, s.outside.dropped,
		s.guarded, s.admitted, s.nodes, s.ips,
	}
}

func (s *sets) addNode(a netip.Addr) {
	s.add[s.nodes] = append(s.add[s.nodes], nftables.SetElement{Key: a.AsSlice()})
}

// put plans the elements of one frontend.
func (s *sets) put(into *plan, e entry) {
	key := elementKey(e.key)
	for _, one := range []struct {
		side
		lead
	}{{s.inside, e.inside}, {s.outside, e.outside}} {
		set, element := one.dropped, nftables.SetElement{Key: key}
		switch {
		case one.port != 0:
			set = one.redirect
			element.Val = binaryutil.BigEndian.PutUint16(one.port)
		case one.lead.refused:
			set = one.side.refused
		}
		(*into)[set] = append((*into)[set], element)
	}
	if len(e.sources) == 0 {
		return
	}
	(*into)[s.guarded] = append((*into)[s.guarded], nftables.SetElement{Key: key})
	for _, p := range e.sources {
		(*into)[s.admitted] = append((*into)[s.admitted], nftables.SetElement{
			Key: append(p.Masked().Addr().AsSlice(), key...), KeyEnd: append(last(p).AsSlice(), key...),
		})
	}
}

// last gives the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// table plans the whole table anew.
func (s *sets) table(c *nftables.Conn, d door, workloads, services []netip.Prefix) {
	c.AddTable(s.of) // or deleting it would fail where it is missing
	c.DelTable(s.of)
	c.AddTable(s.of)
	refuse := s.chain(c, refuseChain)
	s.rule(c, refuse, protocol(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	s.rule(c, refuse, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: s.portUnreachable()}})
	for _, set := range s.all() {
		_ = c.AddSet(set, nil) // it fails for elements only
	}
	for _, one := range []side{s.inside, s.outside} {
		s.redirects(c, one, d)
		s.refusals(c, one, services)
	}
	const after = -90 // what nobody has translated
	s.hooks(c, "redirect-", nftables.ChainTypeNAT, *nftables.ChainPriorityNATDest, workloads)
	s.hooks(c, "refuse-", nftables.ChainTypeFilter, after, workloads)
}

func (s *sets) chain(c *nftables.Conn, name string) *nftables.Chain {
	return c.AddChain(&nftables.Chain{Name: name, Table: s.of})
}

func (s *sets) rule(c *nftables.Conn, in *nftables.Chain, parts ...[]expr.Any) {
	c.AddRule(&nftables.Rule{Table: s.of, Chain: in, Exprs: slices.Concat(parts...)})
}

// redirects leads one side's connections to our door, if there is one.
func (s *sets) redirects(c *nftables.Conn, one side, d door) {
	redirect := s.chain(c, "redirect-"+one.name)
	if !d.addr.IsValid() {
		return
	}
	s.rule(c, redirect, s.key(false), has(s.guarded), s.sourceAndKey(), hasNot(s.admitted), verdict(expr.VerdictDrop, ""))
	s.rule(c, redirect, s.key(false), find(one.redirect, regPort), s.toDoor(d))
	s.rule(c, redirect, s.destinationIn(s.nodes), s.key(true), find(one.redirect, regPort), s.toDoor(d))
}

// refusals answers one side's packets that nobody has translated.
func (s *sets) refusals(c *nftables.Conn, one side, services []netip.Prefix) {
	refused := s.chain(c, "refuse-"+one.name)
	for _, nodePort := range []bool{false, true} {
		var here []expr.Any
		if nodePort {
			here = s.destinationIn(s.nodes)
		}
		s.rule(c, refused, here, s.key(nodePort), has(one.refused), verdict(expr.VerdictGoto, refuseChain))
		s.rule(c, refused, here, s.key(nodePort), has(one.dropped), verdict(expr.VerdictDrop, ""))
	}
	s.rule(c, refused, s.destinationIn(s.ips), verdict(expr.VerdictGoto, refuseChain))
	for _, p := range services {
		if family(p.Addr()) == s.i {
			s.rule(c, refused, s.in(p, s.destination()), verdict(expr.VerdictDrop, ""))
		}
	}
}

// hooks leads the kernel's packets to the chains of each side, whose names begin with prefix.
func (s *sets) hooks(c *nftables.Conn, prefix string, kind nftables.ChainType, priority nftables.ChainPriority, workloads []netip.Prefix) {
	base := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return c.AddChain(&nftables.Chain{Name: prefix + name, Table: s.of, Type: kind, Hooknum: hook, Priority: &priority})
	}
	in, out := base("prerouting", nftables.ChainHookPrerouting), base("output", nftables.ChainHookOutput)
	if kind == nftables.ChainTypeFilter { // an answer to a client that has a Service's address is for no frontend
		s.rule(c, in, answers(), verdict(expr.VerdictAccept, ""))
		s.rule(c, out, answers(), verdict(expr.VerdictAccept, ""))
	}
	// What the proxy sends to a backend of this host comes by lo, too.
	s.rule(c, in, own(), verdict(expr.VerdictAccept, ""))
	s.rule(c, out, own(), verdict(expr.VerdictAccept, ""))
	for _, p := range workloads {
		if family(p.Addr()) == s.i {
			s.rule(c, in, s.in(p, s.source()), verdict(expr.VerdictGoto, prefix+"inside"))
		}
	}
	s.rule(c, in, verdict(expr.VerdictGoto, prefix+"outside"))
	s.rule(c, out, verdict(expr.VerdictGoto, prefix+"inside"))
}

// portUnreachable is ICMP's code (RFC 792) or ICMPv6's (RFC 4443).
func (s *sets) portUnreachable() uint8 {
	if s.i == 1 {
		return 4
	}
	return 3
}

func (s *sets) addrLen() uint32 {
	if s.i == 1 {
		return 16
	}
	return 4
}

// source and destination are offsets in the IP header.
func (s *sets) source() uint32 {
	if s.i == 1 {
		return 8
	}
	return 12
}

func (s *sets) destination() uint32 { return s.source() + s.addrLen() }

// key puts destination address . protocol . port together; for a node port any address of
// the node stands as the unspecified one.
func (s *sets) key(nodePort bool) []expr.Any {
	words := s.addrLen() / 4
	var addr expr.Any = &expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: s.destination(), Len: s.addrLen()}
	if nodePort {
		addr = &expr.Immediate{Register: regKey, Data: make([]byte, s.addrLen())}
	}
	return []expr.Any{
		addr,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey + words},
		&expr.Payload{DestRegister: regKey + words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// sourceAndKey is source address . destination address . protocol . port.
func (s *sets) sourceAndKey() []expr.Any {
	words := s.addrLen() / 4
	return []expr.Any{
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: s.source(), Len: s.addrLen()},
		&expr.Payload{DestRegister: regKey + words, Base: expr.PayloadBaseNetworkHeader, Offset: s.destination(), Len: s.addrLen()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey + 2*words},
		&expr.Payload{DestRegister: regKey + 2*words + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// find looks the key up in a map; what it finds goes to a register.
func find(set *nftables.Set, to uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: regKey, SetName: set.Name, SetID: set.ID, DestRegister: to, IsDestRegSet: true}}
}

func has(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: regKey, SetName: set.Name, SetID: set.ID}}
}

func hasNot(set *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: regKey, SetName: set.Name, SetID: set.ID, Invert: true}}
}

// toDoor sends a new connection to our own address, and the port that was found.
func (s *sets) toDoor(d door) []expr.Any {
	nf := uint32(unix.NFPROTO_IPV4)
	if s.i == 1 {
		nf = unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Immediate{Register: regAddr, Data: d.addr.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: nf, RegAddrMin: regAddr, RegProtoMin: regPort, Specified: true},
	}
}

func (s *sets) destinationIn(set *nftables.Set) []expr.Any {
	return append([]expr.Any{
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: s.destination(), Len: s.addrLen()},
	}, has(set)...)
}

// in matches an address at an offset that is in p.
func (s *sets) in(p netip.Prefix, offset uint32) []expr.Any {
	mask := make([]byte, s.addrLen())
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: s.addrLen()},
		&expr.Bitwise{SourceRegister: regKey, DestRegister: regKey, Len: s.addrLen(), Mask: mask, Xor: make([]byte, s.addrLen())},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: p.Masked().Addr().AsSlice()},
	}
}

// answers matches packets of connections that have had an answer.
func answers() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: regKey},
		&expr.Bitwise{
			SourceRegister: regKey, DestRegister: regKey, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regKey, Data: make([]byte, 4)},
	}
}

// own matches the proxy's own packets.
func own() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: regKey},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: binaryutil.NativeEndian.PutUint32(ownPriority)},
	}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regKey, Data: []byte{number}},
	}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}
