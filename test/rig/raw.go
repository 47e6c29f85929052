package rig

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
)

// IP protocol numbers of raw packets.
const (
	TCP  = 6
	SCTP = 132
)

// Raw sends and receives whole transport segments. The kernel's own sockets get
// what comes too.
type Raw struct {
	conn  *net.IPConn
	local netip.Addr
	proto byte
}

// Raw opens a raw socket at one of the host's addresses, until the test ends.
func (h *Host) Raw(t T, proto byte, local netip.Addr) *Raw {
	t.Helper()
	network := "ip4"
	if local.Is6() {
		network = "ip6"
	}
	r := &Raw{local: local, proto: proto}
	h.must(t, "open a raw socket", h.Do(func() (err error) {
		r.conn, err = net.ListenIP(fmt.Sprintf("%s:%d", network, proto), &net.IPAddr{IP: local.AsSlice()})
		return err
	}))
	t.Cleanup(func() { r.conn.Close() })
	return r
}

// Send sends one segment.
func (r *Raw) Send(to netip.Addr, segment []byte) error {
	if _, err := r.conn.WriteToIP(segment, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return fmt.Errorf("send a segment of protocol %d to %s: %w", r.proto, to, err)
	}
	return nil
}

// Receive gives the next segment that comes to the socket's address before the
// deadline, with its ports.
func (r *Raw) Receive(deadline time.Time) (from, to netip.AddrPort, segment []byte, err error) {
	if err := r.conn.SetReadDeadline(deadline); err != nil {
		return from, to, nil, err
	}
	buf := make([]byte, 65536)
	n, peer, err := r.conn.ReadFromIP(buf)
	if err != nil {
		return from, to, nil, err
	}
	if n < 4 {
		return from, to, nil, fmt.Errorf("a segment of %d bytes", n)
	}
	a, _ := netip.AddrFromSlice(peer.IP)
	from = netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(buf))
	return from, netip.AddrPortFrom(r.local, binary.BigEndian.Uint16(buf[2:])), buf[:n], nil
}

// SCTPInit is an SCTP packet with an INIT chunk (RFC 9260 section 3.3.2), which
// begins an association. ack makes it an INIT ACK.
func SCTPInit(from, to uint16, ack bool) []byte {
	const dataLength, window, streams = 20, 65536, 1
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	tag, kind := uint32(0), byte(1)
	if ack {
		tag, kind = 0x11223344, 2
	}
	b = binary.BigEndian.AppendUint32(b, tag)
	b = append(b, 0, 0, 0, 0) // the checksum
	b = append(b, kind, 0, 0, dataLength)
	b = binary.BigEndian.AppendUint32(b, 0x11223344)
	b = binary.BigEndian.AppendUint32(b, window)
	b = binary.BigEndian.AppendUint16(b, streams)
	b = binary.BigEndian.AppendUint16(b, streams)
	b = binary.BigEndian.AppendUint32(b, 1)
	// RFC 9260 appendix A: CRC32c, its bytes in the reflected order.
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// SCTPSumRight reports whether a packet's checksum is right.
func SCTPSumRight(packet []byte) bool {
	if len(packet) < 12 {
		return false
	}
	b := append([]byte{}, packet...)
	sum := binary.LittleEndian.Uint32(b[8:])
	copy(b[8:12], []byte{0, 0, 0, 0})
	return sum == crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
}

// TCPAck is a TCP segment of one byte with the flags ACK and PSH and any numbers.
func TCPAck(from, to netip.AddrPort, seq, ack uint32) []byte {
	return TCPSegment(from, to, ACK|PSH, seq, ack, []byte("x"))
}

// checksum is RFC 1071's over the pseudo-header and the segment.
func checksum(from, to netip.Addr, proto byte, segment []byte) uint16 {
	b := append(append([]byte{}, from.AsSlice()...), to.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(segment)))
	b = append(b, 0, 0, 0, proto)
	return sum(append(b, segment...))
}

// sum is RFC 1071's.
func sum(b []byte) uint16 {
	sum := uint32(0)
	for i := range b {
		sum += uint32(b[i]) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// LimitMTU makes the host's route to a prefix one of a smaller MTU, which a sender
// learns of by ICMP alone.
func (h *Host) LimitMTU(to netip.Prefix, mtu int) error {
	routes, err := h.Links.RouteListFiltered(0, &netlink.Route{Dst: ipNet(to)}, netlink.RT_FILTER_DST)
	if err != nil || len(routes) != 1 {
		return fmt.Errorf("%d routes to %s: %w", len(routes), to, err)
	}
	r := routes[0]
	r.MTU, r.MTULock = mtu, true
	if err := h.Links.RouteReplace(&r); err != nil {
		return fmt.Errorf("limit the route to %s: %w", to, err)
	}
	return nil
}
