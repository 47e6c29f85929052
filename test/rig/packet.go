package rig

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Further protocol numbers.
const (
	ICMP   = 1
	UDP    = 17
	ICMPv6 = 58
)

// Numbers of IPv6 extension headers (RFC 8200 section 4).
const (
	HopByHop    = 0
	Routing     = 43
	Fragment    = 44
	Destination = 60
)

// Mouth sends whole IP packets out of a host's link, right or wrong, from whatever
// source they name.
type Mouth struct {
	fd int
	to unix.SockaddrLinklayer
}

// Mouth opens a link towards the neighbour with a hardware address, until the test ends.
func (h *Host) Mouth(t T, link string, neighbour net.HardwareAddr) *Mouth {
	t.Helper()
	l, err := h.Links.LinkByName(link)
	h.must(t, "find "+link, err)
	m := &Mouth{to: unix.SockaddrLinklayer{Ifindex: l.Attrs().Index, Halen: uint8(len(neighbour))}}
	copy(m.to.Addr[:], neighbour)
	h.must(t, "open a packet socket", h.Do(func() (err error) {
		m.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	t.Cleanup(func() { unix.Close(m.fd) })
	return m
}

// MAC gives a link's hardware address.
func (h *Host) MAC(t T, link string) net.HardwareAddr {
	t.Helper()
	l, err := h.Links.LinkByName(link)
	h.must(t, "find "+link, err)
	return l.Attrs().HardwareAddr
}

// Send sends one packet; the first half byte tells its family.
func (m *Mouth) Send(packet []byte) error {
	to := m.to
	to.Protocol = binary.NativeEndian.Uint16([]byte{0x08, 0x00})
	if packet[0]>>4 == 6 {
		to.Protocol = binary.NativeEndian.Uint16([]byte{0x86, 0xdd})
	}
	if err := unix.Sendto(m.fd, packet, 0, &to); err != nil {
		return fmt.Errorf("send a packet of %d bytes: %w", len(packet), err)
	}
	return nil
}

// IP is a packet to build, of From's family. What is zero is as an honest sender would
// have it.
type IP struct {
	From, To   netip.Addr
	Proto      byte // of Payload
	TTL        byte
	Options    []byte   // IPv4's, a multiple of four bytes
	Extensions []Header // IPv6's
	// Of a fragment: its place in bytes, a multiple of eight.
	Fragment bool
	ID       uint16
	Offset   int
	More     bool
	Payload  []byte
}

// Header is an IPv6 extension header; Body is what follows its first two bytes (next
// header and length) and fills eight bytes with them, or sixteen, and so on.
type Header struct {
	Kind byte
	Body []byte
}

// Bytes gives the packet.
func (p IP) Bytes() []byte {
	if p.TTL == 0 {
		p.TTL = 64
	}
	if p.From.Is6() {
		return p.six()
	}
	b := []byte{byte(0x45 + len(p.Options)/4), 0}
	b = binary.BigEndian.AppendUint16(b, uint16(20+len(p.Options)+len(p.Payload)))
	b = binary.BigEndian.AppendUint16(b, p.ID)
	place := uint16(p.Offset / 8)
	if p.More {
		const moreFragments = 1 << 13
		place |= moreFragments
	}
	b = binary.BigEndian.AppendUint16(b, place)
	b = append(b, p.TTL, p.Proto, 0, 0)
	b = append(append(append(b, p.From.AsSlice()...), p.To.AsSlice()...), p.Options...)
	binary.BigEndian.PutUint16(b[10:], sum(b))
	return append(b, p.Payload...)
}

func (p IP) six() []byte {
	if p.Fragment {
		place := uint16(p.Offset)
		if p.More {
			place |= 1
		}
		body := binary.BigEndian.AppendUint16(nil, place)
		p.Extensions = append(p.Extensions[:len(p.Extensions):len(p.Extensions)], Header{Fragment, binary.BigEndian.AppendUint32(body, uint32(p.ID))})
	}
	next := p.Proto
	payload := p.Payload
	for i := len(p.Extensions) - 1; i >= 0; i-- {
		e := p.Extensions[i]
		length := byte((len(e.Body)+2)/8 - 1) // of a fragment header: reserved, and zero
		payload = append(append([]byte{next, length}, e.Body...), payload...)
		next = e.Kind
	}
	b := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(payload)))
	b = append(b, next, p.TTL)
	return append(append(append(b, p.From.AsSlice()...), p.To.AsSlice()...), payload...)
}

// TCP's flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// TCPSegment is a segment without options and with a right checksum.
func TCPSegment(from, to netip.AddrPort, flags byte, seq, ack uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 5<<4, flags, 0x20, 0, 0, 0, 0, 0)
	b = append(b, data...)
	binary.BigEndian.PutUint16(b[16:], checksum(from.Addr(), to.Addr(), TCP, b))
	return b
}

// UDPDatagram is a datagram with a right checksum.
func UDPDatagram(from, to netip.AddrPort, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	b = append(append(b, 0, 0), data...)
	binary.BigEndian.PutUint16(b[6:], checksum(from.Addr(), to.Addr(), UDP, b))
	return b
}

// ICMPError is a whole error packet about another packet, of which it quotes the
// beginning; word is what the header's second half holds (an MTU, say).
func ICMPError(from, to netip.Addr, kind, code byte, word uint32, about []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, word)
	b = append(b, about...)
	proto := byte(ICMP)
	if from.Is6() {
		proto = ICMPv6
		binary.BigEndian.PutUint16(b[2:], checksum(from, to, ICMPv6, b))
	} else {
		binary.BigEndian.PutUint16(b[2:], sum(b))
	}
	return IP{From: from, To: to, Proto: proto, Payload: b}.Bytes()
}
