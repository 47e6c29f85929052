package l2

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	ipv6Header = 40
	ndSize     = 24  // of a solicitation or an advertisement without options
	ndHopLimit = 255 // RFC 4861 section 7.1: proof that no router passed it on

	solicitation, advertisement = 135, 136 // RFC 4861 sections 4.3, 4.4

	optionTarget, optionSource = 2, 1 // RFC 4861 section 4.6.1
	flagSolicited              = 1 << 6
	flagOverride               = 1 << 5
)

var allNodes = netip.MustParseAddr("ff02::1")

// nd is a neighbour solicitation or advertisement.
type nd struct {
	kind     byte
	from, to netip.Addr
	target   netip.Addr
	source   mac // of the frame
	owner    mac // an advertisement's option, or else the frame's source
}

// parseND reads a whole frame and checks what RFC 4861 section 7.1 asks for.
func parseND(frame []byte) (n nd, ok bool) {
	if len(frame) < ethernetHeader+ipv6Header+ndSize || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IPV6 {
		return n, false
	}
	p := frame[ethernetHeader:]
	length := int(binary.BigEndian.Uint16(p[4:]))
	if p[0]>>4 != 6 || p[6] != unix.IPPROTO_ICMPV6 || p[7] != ndHopLimit || length < ndSize || length > len(p)-ipv6Header {
		return n, false
	}
	n.from, n.to = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	body := p[ipv6Header : ipv6Header+length]
	n.kind, n.target = body[0], netip.AddrFrom16([16]byte(body[8:24]))
	n.source = mac(frame[6:12])
	n.owner = n.source
	if n.kind != solicitation && n.kind != advertisement || body[1] != 0 || n.target.IsMulticast() || n.source[0]&1 != 0 ||
		icmpSum(n.from, n.to, body) != 0 {
		return n, false
	}
	for options := body[ndSize:]; len(options) > 0; {
		if len(options) < 8 || options[1] == 0 || len(options) < int(options[1])*8 {
			return n, false
		}
		if options[0] == optionTarget && n.kind == advertisement {
			n.owner = mac(options[2:8])
		}
		options = options[int(options[1])*8:]
	}
	return n, true
}

// ndAnswer answers a solicitation for an address that own has. One that looks for
// duplicates has no source and is answered to all (RFC 4861 section 7.2.4).
func ndAnswer(q nd, own mac) []byte {
	if q.from.IsUnspecified() {
		return advertise(q.target, own, allNodes, groupMAC(allNodes), flagOverride)
	}
	return advertise(q.target, own, q.from, q.source, flagSolicited|flagOverride)
}

// ndAnnouncement tells all neighbours of an address (RFC 4861 section 7.2.6).
func ndAnnouncement(addr netip.Addr, own mac) []byte {
	return advertise(addr, own, allNodes, groupMAC(allNodes), flagOverride)
}

// advertise makes a neighbour advertisement. It comes from the address itself, which is
// this node's as long as it holds it.
func advertise(addr netip.Addr, own mac, to netip.Addr, toMAC mac, flags byte) []byte {
	body := append([]byte{advertisement, 0, 0, 0, flags, 0, 0, 0}, addr.AsSlice()...)
	body = append(append(body, optionTarget, 1), own[:]...)
	return icmpFrame(addr, to, own, toMAC, body)
}

// ndProbe asks whether another host has an address (RFC 4862 section 5.4.2).
func ndProbe(addr netip.Addr, own mac) []byte {
	body := append([]byte{solicitation, 0, 0, 0, 0, 0, 0, 0}, addr.AsSlice()...)
	to := solicitedGroup(addr)
	return icmpFrame(netip.IPv6Unspecified(), to, own, groupMAC(to), body)
}

func icmpFrame(from, to netip.Addr, own, toMAC mac, body []byte) []byte {
	binary.BigEndian.PutUint16(body[2:], icmpSum(from, to, body))
	f := append(append(make([]byte, 0, 96), toMAC[:]...), own[:]...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(body)))
	f = append(f, unix.IPPROTO_ICMPV6, ndHopLimit)
	f = append(append(f, from.AsSlice()...), to.AsSlice()...)
	return append(f, body...)
}

// icmpSum is the checksum of an ICMPv6 message with its pseudo header (RFC 4443 section
// 2.3); over one that has the right checksum it is 0.
func icmpSum(from, to netip.Addr, body []byte) uint16 {
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6
	add := func(b []byte) {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(b[0])<<8 | uint32(b[1])
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	add(from.AsSlice())
	add(to.AsSlice())
	add(body)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// solicitedGroup is where solicitations for an address go (RFC 4291 section 2.7.1).
func solicitedGroup(addr netip.Addr) netip.Addr {
	a := addr.As16()
	return netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]})
}

// groupMAC is the hardware address of an IPv6 group (RFC 2464 section 7).
func groupMAC(group netip.Addr) mac {
	a := group.As16()
	return mac{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

// ndFilter has the kernel pass only solicitations and advertisements up to us, of all
// that a link carries.
func ndFilter() ([]bpf.RawInstruction, error) {
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: ethernetHeader + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 4},
		bpf.LoadAbsolute{Off: ethernetHeader + ipv6Header, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: solicitation, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: advertisement, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
}
