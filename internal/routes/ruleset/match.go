package ruleset

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Match is a part of a Rule: a condition or, last, a verdict.
type Match []expr.Any

// reg is the only register used: no rule of ours holds two values at once.
const reg = 1

// In matches packets that came in by the interface.
func In(name string) Match { return iface(expr.MetaKeyIIFNAME, expr.CmpOpEq, name+"\x00") }

// InPrefix matches packets that came in by an interface whose name begins so. A
// comparison shorter than the name is how nft writes "prefix*".
func InPrefix(prefix string) Match { return iface(expr.MetaKeyIIFNAME, expr.CmpOpEq, prefix) }

// InNotPrefix matches packets that came in by an interface whose name begins otherwise.
func InNotPrefix(prefix string) Match { return iface(expr.MetaKeyIIFNAME, expr.CmpOpNeq, prefix) }

// OutNot matches packets that leave by any other interface.
func OutNot(name string) Match { return iface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, name+"\x00") }

// OutNotPrefix matches packets that leave by an interface whose name begins otherwise.
func OutNotPrefix(prefix string) Match { return iface(expr.MetaKeyOIFNAME, expr.CmpOpNeq, prefix) }

func iface(key expr.MetaKey, op expr.CmpOp, name string) Match {
	data := []byte(name)
	if name[len(name)-1] == 0 { // an exact match compares the kernel's whole buffer
		data = make([]byte, unix.IFNAMSIZ)
		copy(data, name)
	}
	return Match{&expr.Meta{Key: key, Register: reg}, &expr.Cmp{Op: op, Register: reg, Data: data}}
}

// Family matches packets of one family.
func Family(ipv6 bool) Match {
	proto := byte(unix.NFPROTO_IPV4)
	if ipv6 {
		proto = unix.NFPROTO_IPV6
	}
	return Match{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{proto}}}
}

// Source matches packets from addresses of p.
func Source(p netip.Prefix) Match { return address(p, expr.CmpOpEq, 12, 8) }

// SourceNot matches packets of p's family from any other address.
func SourceNot(p netip.Prefix) Match { return address(p, expr.CmpOpNeq, 12, 8) }

// Destination matches packets to addresses of p.
func Destination(p netip.Prefix) Match { return address(p, expr.CmpOpEq, 16, 24) }

// address compares the address at the family's offset in the IP header with p.
func address(p netip.Prefix, op expr.CmpOp, offset4, offset6 uint32) Match {
	offset := offset4
	if p.Addr().Is6() {
		offset = offset6
	}
	addr := p.Masked().Addr().AsSlice()
	m := append(Family(p.Addr().Is6()), &expr.Payload{
		DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(addr)),
	})
	if p.Bits() < len(addr)*8 {
		m = append(m, &expr.Bitwise{
			SourceRegister: reg, DestRegister: reg, Len: uint32(len(addr)), Mask: mask(p.Bits(), len(addr)), Xor: make([]byte, len(addr)),
		})
	}
	return append(m, &expr.Cmp{Op: op, Register: reg, Data: addr})
}

func mask(bits, size int) []byte {
	out := make([]byte, size)
	for i := range bits {
		out[i/8] |= 0x80 >> (i % 8)
	}
	return out
}

// NoRouteBack matches packets whose source address isn't reached by the interface
// they came in by.
func NoRouteBack() Match {
	return Match{
		&expr.Fib{Register: reg, ResultOIF: true, FlagSADDR: true, FlagIIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: make([]byte, 4)},
	}
}

// UDPTo matches UDP packets to a port.
func UDPTo(port uint16) Match {
	return Match{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binary.BigEndian.AppendUint16(nil, port)},
	}
}

// VXLAN matches packets of one VXLAN network to a UDP port (RFC 7348 section 5).
func VXLAN(port uint16, vni uint32) Match {
	return append(UDPTo(port),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 8 + 4, Len: 3},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binary.BigEndian.AppendUint32(nil, vni)[1:]},
	)
}

// ICMPv6 matches ICMPv6 messages of a type.
func ICMPv6(kind byte) Match {
	return Match{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{kind}},
	}
}

// StateNot matches packets whose connection has none of the states, which are the
// CtStateBit constants of expr.
func StateNot(states uint32) Match { return ctNone(expr.CtKeySTATE, states) }

// NotDNAT matches packets of connections whose destination was not translated.
func NotDNAT() Match {
	const ipsDstNAT = 1 << 5 // IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h
	return ctNone(expr.CtKeySTATUS, ipsDstNAT)
}

func ctNone(key expr.CtKey, bits uint32) Match {
	return Match{
		&expr.Ct{Key: key, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binary.NativeEndian.AppendUint32(nil, bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: make([]byte, 4)},
	}
}

// Drop ends with the packet dropped.
func Drop() Match { return verdict(expr.VerdictDrop, "") }

// Return goes back to the calling chain.
func Return() Match { return verdict(expr.VerdictReturn, "") }

// Jump goes to another chain of the table and may come back.
func Jump(chain string) Match { return verdict(expr.VerdictJump, chain) }

// Masquerade gives the packet's connection the source address of the link by
// which it leaves.
func Masquerade() Match { return Match{&expr.Masq{}} }

func verdict(kind expr.VerdictKind, chain string) Match {
	return Match{&expr.Verdict{Kind: kind, Chain: chain}}
}
