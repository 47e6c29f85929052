package ipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
)

// firstGuest leaves out .0, the network, and .1, which people take for the gateway.
const firstGuest = 2

// Guest is what a guest gets: one address for each family, the primary first, and a
// hardware address. Both addresses end in the same number.
type Guest struct {
	Addrs []netip.Addr
	MAC   net.HardwareAddr
}

// GuestRange hands out guests' addresses. One number makes all of them: host 2 of
// 10.245.0.0/16 is host 2 of fd00:10:245::/64, so that who knows one knows the other.
type GuestRange struct {
	prefixes []netip.Prefix
	numbers  *numbers
}

// NewGuestRange takes one prefix, or one of each family with the primary first. The
// smaller one limits the number of guests.
func NewGuestRange(prefixes ...netip.Prefix) (*GuestRange, error) {
	if len(prefixes) == 0 || len(prefixes) > 2 {
		return nil, fmt.Errorf("guest ranges: one or two are needed, got %d", len(prefixes))
	}
	if len(prefixes) == 2 && prefixes[0].Addr().Is4() == prefixes[1].Addr().Is4() {
		return nil, fmt.Errorf("guest ranges %s and %s: one of each family is needed", prefixes[0], prefixes[1])
	}
	// A MAC has room for 32 bits (see MACFor), so there are no more guests.
	size := uint64(1 << 32)
	for _, p := range prefixes {
		n, err := usable(p)
		if err != nil {
			return nil, fmt.Errorf("guest range: %w", err)
		}
		// Numbers count from the network's own address here.
		if n < size {
			size = n + 1
		}
	}
	if size <= firstGuest {
		return nil, fmt.Errorf("guest range %s: holds no address to give away", prefixes[0])
	}
	return &GuestRange{prefixes: prefixes, numbers: newNumbers(size, 0, nil)}, nil
}

// Pick marks and returns the addresses of the guest of this name. It begins at a place
// that the name decides, so that a guest which is deleted and made again mostly has its
// old address, and takes the next free one. When the storage finds the choice claimed,
// it is left marked and picked again.
func (g *GuestRange) Pick(namespace, name string) (Guest, error) {
	h := fnv.New64a()
	h.Write([]byte(namespace + "/" + name)) // never fails, says hash.Hash
	start := firstGuest + h.Sum64()%(g.numbers.size-firstGuest)
	n, ok := g.numbers.nextFrom(start, firstGuest)
	if !ok {
		return Guest{}, fmt.Errorf("address for guest %s/%s: %w", namespace, name, fullError(g.prefixes[0].String()))
	}
	return g.guest(n), nil
}

// Guest gives the guest that has these addresses, or says which one the range can't
// give. It marks nothing.
func (g *GuestRange) Guest(addrs ...netip.Addr) (Guest, error) {
	if len(addrs) == 0 {
		return Guest{}, errors.New("guest without an address")
	}
	for _, addr := range addrs {
		if _, ok := g.number(addr); !ok {
			return Guest{}, &NotInRangeError{Addr: addr, Valid: g.String()}
		}
	}
	for _, addr := range addrs {
		if addr.Is4() {
			return Guest{Addrs: addrs, MAC: MACFor(addr)}, nil
		}
	}
	return Guest{Addrs: addrs, MAC: MACFor(addrs[0])}, nil
}

// Mark notes addresses that the storage holds; others than the range's are ignored.
func (g *GuestRange) Mark(addrs ...netip.Addr) {
	for _, addr := range addrs {
		if n, ok := g.number(addr); ok {
			g.numbers.mark(n)
		}
	}
}

// Release notes that the storage no longer holds the addresses.
func (g *GuestRange) Release(addrs ...netip.Addr) {
	for _, addr := range addrs {
		if n, ok := g.number(addr); ok {
			g.numbers.release(n)
		}
	}
}

// Free gives the number of guests that can still get addresses.
func (g *GuestRange) Free() uint64 { return g.numbers.free() - firstGuest }

// String gives the prefixes, comma separated.
func (g *GuestRange) String() string {
	s := g.prefixes[0].String()
	if len(g.prefixes) == 2 {
		s += "," + g.prefixes[1].String()
	}
	return s
}

func (g *GuestRange) guest(n uint64) Guest {
	var out Guest
	mac := g.prefixes[0].Addr()
	for _, p := range g.prefixes {
		addr := addHost(p.Addr(), n)
		out.Addrs = append(out.Addrs, addr)
		if !mac.Is4() || addr.Is4() {
			mac = addr
		}
	}
	out.MAC = MACFor(mac)
	return out
}

// number gives the number of an address that a guest can have.
func (g *GuestRange) number(addr netip.Addr) (n uint64, ok bool) {
	addr = addr.Unmap().WithZone("")
	for _, p := range g.prefixes {
		if p.Contains(addr) {
			n = hostPart(addr) - hostPart(p.Addr())
			return n, n >= firstGuest && n < g.numbers.size
		}
	}
	return 0, false
}

// MACFor gives the hardware address of the guest with this address: 02:70, unicast and
// locally administered (IEEE 802, 8.4), before the IPv4 address, or the last 32 bits of
// an IPv6 one. So it is as unique as the address and as stable, and people can read it:
// 02:70:0a:f5:00:02 is 10.245.0.2.
func MACFor(addr netip.Addr) net.HardwareAddr {
	mac := net.HardwareAddr{0x02, 0x70, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(mac[2:], uint32(hostPart(addr)))
	return mac
}
