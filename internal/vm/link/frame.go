package link

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	dhcp4Server, dhcp4Client = 67, 68   // RFC 2131 section 4.1
	dhcp6Server, dhcp6Client = 547, 546 // RFC 8415 section 7.2

	ethernetHeader = 14
	ipv4Header     = 20 // without options
	ipv6Header     = 40
	udpHeader      = 8
	ndHopLimit     = 255 // RFC 4861 section 6.1: proof that no router passed it on
)

// question is what a guest asks: a UDP payload, or an ICMPv6 message.
type question struct {
	src      netip.Addr
	protocol byte   // of IP
	port     uint16 // destination, for UDP
	payload  []byte // of UDP, or the whole ICMPv6 message
}

// parse reads an Ethernet frame that came from mac. It says no to everything that
// isn't a whole, unfragmented question for the servers here. Checksums are not
// looked at: on a virtual link nothing breaks, and with offloads they are not made.
func parse(frame []byte, mac net.HardwareAddr) (question, bool) {
	if len(frame) < ethernetHeader || !bytes.Equal(frame[6:12], mac) {
		return question{}, false
	}
	packet := frame[ethernetHeader:]
	switch binary.BigEndian.Uint16(frame[12:14]) {
	case unix.ETH_P_IP:
		return parse4(packet)
	case unix.ETH_P_IPV6:
		return parse6(packet)
	}
	return question{}, false
}

func parse4(p []byte) (question, bool) {
	if len(p) < ipv4Header || p[0]>>4 != 4 {
		return question{}, false
	}
	header, total := int(p[0]&0xf)*4, int(binary.BigEndian.Uint16(p[2:4]))
	const moreOrOffset = 0x3fff
	if header < ipv4Header || total < header || total > len(p) || binary.BigEndian.Uint16(p[6:8])&moreOrOffset != 0 || p[9] != unix.IPPROTO_UDP {
		return question{}, false
	}
	q := question{src: netip.AddrFrom4([4]byte(p[12:16])), protocol: unix.IPPROTO_UDP}
	return q.udp(p[header:total])
}

func parse6(p []byte) (question, bool) {
	if len(p) < ipv6Header || p[0]>>4 != 6 {
		return question{}, false
	}
	total := ipv6Header + int(binary.BigEndian.Uint16(p[4:6]))
	if total > len(p) {
		return question{}, false
	}
	q := question{src: netip.AddrFrom16([16]byte(p[8:24])), protocol: p[6]}
	switch body := p[ipv6Header:total]; p[6] {
	case unix.IPPROTO_UDP:
		return q.udp(body)
	case unix.IPPROTO_ICMPV6:
		q.payload = body
		return q, p[7] == ndHopLimit && len(body) >= 8
	}
	return question{}, false
}

func (q question) udp(p []byte) (question, bool) {
	if len(p) < udpHeader {
		return question{}, false
	}
	length := int(binary.BigEndian.Uint16(p[4:6]))
	if length < udpHeader || length > len(p) {
		return question{}, false
	}
	q.port, q.payload = binary.BigEndian.Uint16(p[2:4]), p[udpHeader:length]
	return q, true
}

// udp4 makes a whole frame from the gateway's DHCPv4 port to the client's.
func udp4(mac net.HardwareAddr, dst netip.Addr, payload []byte) []byte {
	f := ethernet(mac, unix.ETH_P_IP)
	total := ipv4Header + udpHeader + len(payload)
	header := make([]byte, ipv4Header)
	header[0], header[1] = 0x45, 0x10 // low delay, as RFC 1123-era servers send
	binary.BigEndian.PutUint16(header[2:4], uint16(total))
	header[8], header[9] = 64, unix.IPPROTO_UDP
	src4, dst4 := Gateway4.As4(), dst.As4()
	copy(header[12:16], src4[:])
	copy(header[16:20], dst4[:])
	binary.BigEndian.PutUint16(header[10:12], ^fold(sum(0, header)))
	f = append(f, header...)
	return append(f, udpTo(Gateway4, dst, dhcp4Server, dhcp4Client, payload)...)
}

// udp6 makes a whole frame from the gateway's DHCPv6 port to the client's.
func udp6(mac net.HardwareAddr, dst netip.Addr, payload []byte) []byte {
	return ipv6Frame(mac, dst, unix.IPPROTO_UDP, udpTo(Gateway6, dst, dhcp6Server, dhcp6Client, payload))
}

// ipv6Frame makes a whole frame from the gateway around an upper layer's packet.
func ipv6Frame(mac net.HardwareAddr, dst netip.Addr, protocol byte, body []byte) []byte {
	f := append(ethernet(mac, unix.ETH_P_IPV6), 0x60, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(body)))
	f = append(f, protocol, ndHopLimit)
	f = append(f, Gateway6.AsSlice()...)
	f = append(f, dst.AsSlice()...)
	return append(f, body...)
}

func ethernet(dst net.HardwareAddr, kind uint16) []byte {
	f := append(make([]byte, 0, 512), dst...)
	f = append(f, GatewayMAC...)
	return binary.BigEndian.AppendUint16(f, kind)
}

// udpTo makes a UDP packet with its checksum, over the pseudo header too (RFC 768,
// RFC 8200 section 8.1).
func udpTo(src, dst netip.Addr, from, to uint16, payload []byte) []byte {
	length := uint16(udpHeader + len(payload))
	p := binary.BigEndian.AppendUint16(nil, from)
	p = binary.BigEndian.AppendUint16(p, to)
	p = binary.BigEndian.AppendUint16(p, length)
	p = append(p, 0, 0)
	p = append(p, payload...)
	total := sum(sum(sum(0, src.AsSlice()), dst.AsSlice()), []byte{0, unix.IPPROTO_UDP, byte(length >> 8), byte(length)})
	check := ^fold(sum(total, p))
	if check == 0 {
		check = 0xffff // 0 would say that there is none
	}
	binary.BigEndian.PutUint16(p[6:8], check)
	return p
}

// sum adds 16-bit words (RFC 1071); only the last b may have an odd length.
func sum(start uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	return start
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// filter4 lets the kernel pass only DHCPv4 questions up to us: every other packet
// of the guest costs these few instructions.
func filter4() ([]bpf.RawInstruction, error) {
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: ethernetHeader + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: ethernetHeader + 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
		bpf.LoadMemShift{Off: ethernetHeader},
		bpf.LoadIndirect{Off: ethernetHeader + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: dhcp4Server, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
}

// filter6 passes DHCPv6 questions and router solicitations.
func filter6() ([]bpf.RawInstruction, error) {
	return bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: ethernetHeader + 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: 2},
		bpf.LoadAbsolute{Off: ethernetHeader + ipv6Header + 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: dhcp6Server, SkipTrue: 3, SkipFalse: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
		bpf.LoadAbsolute{Off: ethernetHeader + ipv6Header, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: routerSolicitation, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	})
}
