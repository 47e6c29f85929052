package pools

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"portico.dev/portico/internal/core/metallb"
)

// Set are the addresses of all pools. It doesn't change.
type Set struct {
	byName map[string]*pool
	ranges []*addresses // of all pools, in the order of addresses; none overlap
}

// pool is an IPAddressPool and what of its addresses it really has.
type pool struct {
	*metallb.IPAddressPool
	ranges []*addresses // in the order written
}

// addresses are those from first to last, of one family.
type addresses struct {
	first, last netip.Addr
	pool        *pool
}

// Fault is something written in a pool that is not done as written.
type Fault struct {
	Pool    string // its name
	Range   string // as written; empty: the whole pool
	Message string // what, what is done instead, and the remedy
}

func (f Fault) String() string {
	if f.Range == "" {
		return fmt.Sprintf("IPAddressPool %s: %s", f.Pool, f.Message)
	}
	return fmt.Sprintf("IPAddressPool %s, %s: %s", f.Pool, f.Range, f.Message)
}

// special ranges have no addresses that a LAN or a router could send to a node.
var special = []Reserved{
	{netip.MustParsePrefix("0.0.0.0/8"), "no addresses of hosts (RFC 1122)"},
	{netip.MustParsePrefix("127.0.0.0/8"), "every host's own (RFC 1122)"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local (RFC 3927)"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast (RFC 5771)"},
	{netip.MustParsePrefix("255.255.255.255/32"), "the broadcast (RFC 919)"},
	{netip.MustParsePrefix("::/127"), "every host's own (RFC 4291)"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4 in disguise (RFC 4291)"},
	{netip.MustParsePrefix("fe80::/10"), "link-local (RFC 4291)"},
	{netip.MustParsePrefix("ff00::/8"), "multicast (RFC 4291)"},
}

// Parse reads the pools. What can't be read, overlaps an older pool or is reserved is left
// out and told as a fault; the rest of the pool counts.
func Parse(config *metallb.Config, reserved ...Reserved) (*Set, []Fault) {
	set := &Set{byName: make(map[string]*pool, len(config.Pools))}
	var faults []Fault
	older := slices.Clone(config.Pools)
	slices.SortStableFunc(older, func(a, b *metallb.IPAddressPool) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	reserved = slices.Concat(special, reserved)
	for _, p := range older {
		own := &pool{IPAddressPool: p}
		set.byName[p.Name] = own
		faults = append(faults, checkSelectors(p)...)
		for _, text := range p.Spec.Addresses {
			faults = append(faults, set.add(own, text, reserved)...)
		}
		for _, r := range own.ranges {
			at, _ := set.search(r.first)
			set.ranges = slices.Insert(set.ranges, at, r)
		}
	}
	return set, faults
}

// add gives the pool what a text says, without what is others'.
func (s *Set) add(own *pool, text string, reserved []Reserved) []Fault {
	first, last, err := ParseRange(text)
	if err != nil {
		return []Fault{{own.Name, text, err.Error() + "; the range is ignored"}}
	}
	var faults []Fault
	left := []*addresses{{first, last, own}}
	for _, r := range reserved {
		from, to := ends(r.Prefix)
		var cut bool
		if left, cut = without(left, from, to); cut {
			faults = append(faults, Fault{own.Name, text, fmt.Sprintf(
				"it overlaps %s, %s; load balancers don't get these addresses: take them out of the pool", r.Prefix, r.What)})
		}
	}
	for _, r := range s.ranges {
		var cut bool
		if left, cut = without(left, r.first, r.last); cut {
			faults = append(faults, Fault{own.Name, text, fmt.Sprintf(
				"%s-%s belong to the older IPAddressPool %s, which keeps them; take them out of one of the two", r.first, r.last, r.pool.Name)})
		}
	}
	for _, r := range own.ranges { // written twice does no harm
		left, _ = without(left, r.first, r.last)
	}
	own.ranges = append(own.ranges, left...)
	return faults
}

// without takes the addresses from first to last out of ranges, and tells whether any were
// there.
func without(ranges []*addresses, first, last netip.Addr) (out []*addresses, cut bool) {
	for _, r := range ranges {
		if r.first.BitLen() != first.BitLen() || last.Less(r.first) || r.last.Less(first) {
			out = append(out, r)
			continue
		}
		cut = true
		if r.first.Less(first) {
			out = append(out, &addresses{r.first, first.Prev(), r.pool})
		}
		if last.Less(r.last) {
			out = append(out, &addresses{last.Next(), r.last, r.pool})
		}
	}
	return out, cut
}

// ParseRange reads a prefix ("192.0.2.0/28") or the first and last address of a range
// ("192.0.2.1-192.0.2.9"), as an IPAddressPool has them.
func ParseRange(text string) (first, last netip.Addr, err error) {
	from, to, isRange := strings.Cut(text, "-")
	if !isRange {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return first, last, fmt.Errorf("%q is neither a prefix like 192.0.2.0/28 nor a range like 192.0.2.1-192.0.2.9 (a single address is 192.0.2.1/32)", text)
		}
		first, last = ends(prefix)
		return first, last, nil
	}
	first, err = netip.ParseAddr(strings.TrimSpace(from))
	if err == nil {
		last, err = netip.ParseAddr(strings.TrimSpace(to))
	}
	switch {
	case err != nil || first.Zone()+last.Zone() != "":
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("%q isn't two addresses with \"-\" between them", text)
	case first.BitLen() != last.BitLen():
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("%q begins in one family and ends in the other; write two ranges", text)
	case last.Less(first):
		return netip.Addr{}, netip.Addr{}, fmt.Errorf("%q is backwards; write %s-%s", text, last, first)
	}
	return first, last, nil
}

// ends gives the first and the last address of a prefix.
func ends(prefix netip.Prefix) (first, last netip.Addr) {
	first = prefix.Masked().Addr()
	bytes := first.AsSlice()
	for bit := prefix.Bits(); bit < first.BitLen(); bit++ {
		bytes[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ = netip.AddrFromSlice(bytes)
	return first, last
}

// Find gives the pool that has the address, nil where none has.
func (s *Set) Find(addr netip.Addr) *metallb.IPAddressPool {
	if r := s.rangeOf(addr.Unmap()); r != nil && r.pool.gives(addr.Unmap()) {
		return r.pool.IPAddressPool
	}
	return nil
}

func (s *Set) rangeOf(addr netip.Addr) *addresses {
	at, exact := s.search(addr)
	if !exact {
		at-- // the last that begins before it
	}
	if at >= 0 && s.ranges[at].has(addr) {
		return s.ranges[at]
	}
	return nil
}

// search gives the index of the first range that doesn't begin before addr, and whether it
// begins with it.
func (s *Set) search(addr netip.Addr) (int, bool) {
	return slices.BinarySearchFunc(s.ranges, addr, func(r *addresses, addr netip.Addr) int { return r.first.Compare(addr) })
}

// Names gives the names of all pools, sorted.
func (s *Set) Names() []string {
	names := make([]string, 0, len(s.byName))
	for name := range s.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (r *addresses) has(addr netip.Addr) bool {
	return r.first.BitLen() == addr.BitLen() && !addr.Less(r.first) && !r.last.Less(addr)
}

// gives tells whether an address in the pool's ranges may be given. Some old routers take
// .0 and .255 for a network's and a broadcast, and drop packets to them.
func (p *pool) gives(addr netip.Addr) bool {
	if !p.Spec.AvoidBuggyIPs || !addr.Is4() {
		return true
	}
	last := addr.As4()[3]
	return last != 0 && last != 255
}

// autoAssigns tells whether Services that ask for nothing get addresses of it.
func (p *pool) autoAssigns() bool { return p.Spec.AutoAssign == nil || *p.Spec.AutoAssign }

func (p *pool) hasFamily(family int) bool {
	return slices.ContainsFunc(p.ranges, func(r *addresses) bool { return r.first.BitLen() == family })
}

// size counts the addresses of a family (32 or 128 bits), at most math.MaxInt64.
func (p *pool) size(family int) int64 {
	var total int64
	for _, r := range p.ranges {
		if r.first.BitLen() != family {
			continue
		}
		n := r.size()
		if p.Spec.AvoidBuggyIPs && family == 32 {
			n -= r.buggy()
		}
		if total > math.MaxInt64-n {
			return math.MaxInt64
		}
		total += n
	}
	return total
}

// size counts them, at most math.MaxInt64.
func (r *addresses) size() int64 {
	a, b := r.first.As16(), r.last.As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(a[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(a[:8]), borrow)
	if high > 0 || low >= math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(low) + 1
}

// buggy counts the IPv4 addresses that end in .0 or .255.
func (r *addresses) buggy() int64 {
	upTo := func(n int64) int64 { return (n+256)/256 + (n+1)/256 } // of those from 0.0.0.0 on
	a, b := r.first.As4(), r.last.As4()
	return upTo(int64(binary.BigEndian.Uint32(b[:]))) - upTo(int64(binary.BigEndian.Uint32(a[:]))-1)
}
