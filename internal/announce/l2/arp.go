package l2

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// mac is a hardware address.
type mac = [6]byte

var broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

const (
	ethernetHeader = 14
	arpSize        = 28 // RFC 826, for IPv4 on Ethernet

	arpRequest, arpReply = 1, 2
)

// arp is an ARP packet for IPv4 on Ethernet, with the hardware address that the frame
// itself came from.
type arp struct {
	op                 uint16
	sender, target     mac
	senderIP, targetIP netip.Addr
	source             mac
}

// parseARP reads a whole frame.
func parseARP(frame []byte) (a arp, ok bool) {
	if len(frame) < ethernetHeader+arpSize || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_ARP {
		return a, false
	}
	p := frame[ethernetHeader:]
	const ethernet, macSize, ipv4Size = 1, 6, 4
	if binary.BigEndian.Uint16(p) != ethernet || binary.BigEndian.Uint16(p[2:]) != unix.ETH_P_IP || p[4] != macSize || p[5] != ipv4Size {
		return a, false
	}
	a.op = binary.BigEndian.Uint16(p[6:])
	a.sender, a.senderIP = mac(p[8:14]), netip.AddrFrom4([4]byte(p[14:18]))
	a.target, a.targetIP = mac(p[18:24]), netip.AddrFrom4([4]byte(p[24:28]))
	a.source = mac(frame[6:12])
	// Nobody's address is a group's; an answer to it would go to many.
	return a, a.sender[0]&1 == 0 && a.source[0]&1 == 0
}

// frame makes an ARP frame to a hardware address.
func (a arp) frame(to mac) []byte {
	f := make([]byte, 0, ethernetHeader+arpSize)
	f = append(append(f, to[:]...), a.sender[:]...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4)
	f = binary.BigEndian.AppendUint16(f, a.op)
	f = append(append(f, a.sender[:]...), a.senderIP.AsSlice()...)
	return append(append(f, a.target[:]...), a.targetIP.AsSlice()...)
}

// arpAnswer answers a request for an address that own has.
func arpAnswer(q arp, own mac) []byte {
	return arp{op: arpReply, sender: own, senderIP: q.targetIP, target: q.sender, targetIP: q.senderIP}.frame(q.sender)
}

// arpAnnouncements tell all neighbours of an address, as a request and as a reply: some
// listen to the one only, some to the other (RFC 5227 section 3).
func arpAnnouncements(addr netip.Addr, own mac) [][]byte {
	return [][]byte{
		arp{op: arpRequest, sender: own, senderIP: addr, targetIP: addr}.frame(broadcast),
		arp{op: arpReply, sender: own, senderIP: addr, target: broadcast, targetIP: addr}.frame(broadcast),
	}
}

// arpProbe asks whether another host has an address (RFC 5227 section 2.1.1).
func arpProbe(addr netip.Addr, own mac) []byte {
	return arp{op: arpRequest, sender: own, senderIP: netip.IPv4Unspecified(), targetIP: addr}.frame(broadcast)
}
