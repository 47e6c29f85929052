package lanprobe

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

const (
	ethernetSize = 14
	arpSize      = 28 // RFC 826, for IPv4 on Ethernet
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// probe makes the frame that asks who has addr, without an address of its own, so that
// nobody learns anything from it (RFC 5227, section 2.1.1).
func probe(from net.HardwareAddr, addr netip.Addr) []byte {
	f := slices.Concat(broadcast, from)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, from...), 0, 0, 0, 0)
	f = append(f, 0, 0, 0, 0, 0, 0)
	return append(f, addr.AsSlice()...)
}

// speaker reads who sent an ARP packet, of whatever kind; false where it isn't one, or comes
// from nobody's address.
func speaker(frame []byte) (addr netip.Addr, mac net.HardwareAddr, ok bool) {
	if len(frame) < ethernetSize+arpSize || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_ARP {
		return addr, nil, false
	}
	p := frame[ethernetSize:]
	if !bytes.Equal(p[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return addr, nil, false
	}
	addr = netip.AddrFrom4([4]byte(p[14:18]))
	return addr, slices.Clone(net.HardwareAddr(p[8:14])), !addr.IsUnspecified()
}

func askARP(ctx context.Context, l *link, taken func(netip.Addr, net.HardwareAddr)) error {
	if len(l.four) == 0 {
		return nil
	}
	conn, err := packet.Listen(l.Interface, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	send := func(addr netip.Addr) error {
		_, err := conn.WriteTo(probe(l.HardwareAddr, addr), &packet.Addr{HardwareAddr: broadcast})
		return err
	}
	return ask(ctx, l.four, send, conn.SetReadDeadline, func() {
		buffer := make([]byte, l.MTU+ethernetSize)
		for {
			n, _, err := conn.ReadFrom(buffer)
			if err != nil {
				return // the deadline
			}
			addr, mac, ok := speaker(buffer[:n])
			if ok && slices.Contains(l.four, addr) && !bytes.Equal(mac, l.HardwareAddr) {
				taken(addr, mac)
			}
		}
	})
}
