package ipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// maxHostBits is the size of the largest range: an IPv6 /64, whose host part is a
// number of one machine word.
const maxHostBits = 64

// Range hands out the addresses of a prefix. Neither the network's own address (in
// IPv6 the routers' anycast address, RFC 4291, 2.6.1) nor the broadcast address of
// IPv4 is among them.
type Range struct {
	prefix  netip.Prefix
	first   netip.Addr // number 0
	numbers *numbers
}

// NewRange makes a range with nothing taken. A nil random is the usual one.
func NewRange(prefix netip.Prefix, random Random) (*Range, error) {
	size, err := usable(prefix)
	if err != nil {
		return nil, err
	}
	total := size + 1 // with the network's address, as the band is reckoned (ALLOC-01)
	if prefix.Addr().Is4() {
		total++
	} else if total == 0 { // a /64 has 2^64
		total = size
	}
	return &Range{
		prefix:  prefix,
		first:   prefix.Addr().Next(),
		numbers: newNumbers(size, band(total, 16, 256), random),
	}, nil
}

// usable gives the number of addresses that can be handed out.
func usable(prefix netip.Prefix) (uint64, error) {
	if !prefix.IsValid() || prefix.Addr().Is4In6() {
		return 0, fmt.Errorf("address range %q: not an IPv4 or IPv6 prefix", prefix)
	}
	if prefix != prefix.Masked() {
		return 0, fmt.Errorf("address range %s: bits are set beyond the prefix length, write %s", prefix, prefix.Masked())
	}
	hostBits := prefix.Addr().BitLen() - prefix.Bits()
	if hostBits > maxHostBits {
		return 0, fmt.Errorf("address range %s: larger than a /64", prefix)
	}
	size := ^uint64(0) // 2^64 less the network's address
	if hostBits < maxHostBits {
		size = 1<<hostBits - 1
	}
	if prefix.Addr().Is4() && size > 0 {
		size--
	}
	if size == 0 {
		return 0, fmt.Errorf("address range %s: holds no address to give away", prefix)
	}
	return size, nil
}

// Prefix gives the range's prefix.
func (r *Range) Prefix() netip.Prefix { return r.prefix }

// Family gives the range's address family.
func (r *Range) Family() corev1.IPFamily {
	if r.prefix.Addr().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// Contains reports whether the range can give the address, taken or not.
func (r *Range) Contains(addr netip.Addr) bool {
	_, ok := r.number(addr)
	return ok
}

// Nth gives the nth address of the range, counted from 1, taken or not: the first is
// the API's, the tenth the DNS server's.
func (r *Range) Nth(n uint64) (netip.Addr, error) {
	if n == 0 || n > r.numbers.size {
		return netip.Addr{}, fmt.Errorf("address range %s: has no address %d", r.prefix, n)
	}
	return r.address(n - 1), nil
}

// Next marks and returns a free address, from the upper part as long as it has one.
func (r *Range) Next() (netip.Addr, error) {
	n, ok := r.numbers.next()
	if !ok {
		return netip.Addr{}, fullError(r.prefix.String())
	}
	return r.address(n), nil
}

// Mark notes that the address is taken and reports whether that was news.
func (r *Range) Mark(addr netip.Addr) (bool, error) {
	n, ok := r.number(addr)
	if !ok {
		return false, r.notInRange(addr)
	}
	return r.numbers.mark(n), nil
}

// Release notes that the address is free again and reports whether that was news.
func (r *Range) Release(addr netip.Addr) bool {
	n, ok := r.number(addr)
	return ok && r.numbers.release(n)
}

// Taken reports whether the address is marked.
func (r *Range) Taken(addr netip.Addr) bool {
	n, ok := r.number(addr)
	return ok && r.numbers.has(n)
}

// Free gives the number of addresses that aren't marked.
func (r *Range) Free() uint64 { return r.numbers.free() }

func (r *Range) notInRange(addr netip.Addr) error {
	return &NotInRangeError{Addr: addr, Valid: r.prefix.String()}
}

func (r *Range) number(addr netip.Addr) (uint64, bool) {
	addr = addr.Unmap().WithZone("")
	if !r.prefix.Contains(addr) {
		return 0, false
	}
	n := hostPart(addr) - hostPart(r.first) // below zero for the network's own address
	return n, n < r.numbers.size
}

func (r *Range) address(n uint64) netip.Addr { return addHost(r.first, n) }

// hostPart gives the low 64 bits of an address, which hold all that differs between
// the addresses of one range.
func hostPart(addr netip.Addr) uint64 {
	if addr.Is4() {
		b := addr.As4()
		return uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := addr.As16()
	return binary.BigEndian.Uint64(b[8:])
}

// addHost gives the nth address after base.
func addHost(base netip.Addr, n uint64) netip.Addr {
	if base.Is4() {
		b := base.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := base.As16()
	binary.BigEndian.PutUint64(b[8:], binary.BigEndian.Uint64(b[8:])+n)
	return netip.AddrFrom16(b)
}
