package nodes

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// The pieces that are cut from a cluster's ranges: 254 pods for each node, which
// is more than the 110 that kubelets take, and the only size that IPv6 links
// have by RFC 4291, section 2.5.1.
const (
	bits4 = 24
	bits6 = 64
)

// errExhausted: a cluster's range has no piece left.
var errExhausted = errors.New("no free piece is left")

// checkRanges says what is wrong with the cluster's ranges: at most one of each
// family, and each at least one piece large.
func checkRanges(ranges []netip.Prefix) error {
	for i, r := range ranges {
		switch {
		case !r.IsValid() || r != r.Masked():
			return fmt.Errorf("cluster range %s has bits set behind its length; write %s", r, r.Masked())
		case r.Bits() > pieceBits(r):
			return fmt.Errorf("cluster range %s is too small: each node takes a /%d of it", r, pieceBits(r))
		case slices.ContainsFunc(ranges[:i], func(o netip.Prefix) bool { return o.Addr().Is4() == r.Addr().Is4() }):
			return fmt.Errorf("cluster ranges %s and %s are of one family; give one of each at most", ranges[0], r)
		}
	}
	return nil
}

// cut takes the lowest free piece of each range. used is what nodes have already,
// in any order and of any size.
func cut(ranges, used []netip.Prefix) ([]netip.Prefix, error) {
	pieces := make([]netip.Prefix, len(ranges))
	for i, r := range ranges {
		piece, err := lowest(r, used)
		if err != nil {
			return nil, err
		}
		pieces[i] = piece
	}
	return pieces, nil
}

// lowest walks the used ranges in order, and stops before the first gap that
// holds a piece.
func lowest(within netip.Prefix, used []netip.Prefix) (netip.Prefix, error) {
	bits := pieceBits(within)
	taken := slices.DeleteFunc(slices.Clone(used), func(u netip.Prefix) bool { return !u.Overlaps(within) })
	slices.SortFunc(taken, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	piece := netip.PrefixFrom(within.Addr(), bits)
	for _, u := range taken {
		for piece.IsValid() && within.Contains(piece.Addr()) && u.Overlaps(piece) {
			after := piece
			if u.Bits() < bits {
				after = u // it covers several pieces
			}
			piece = next(after, bits)
		}
	}
	if !piece.IsValid() || !within.Contains(piece.Addr()) {
		return netip.Prefix{}, fmt.Errorf("%s: %w for another /%d; give the cluster a larger range", within, errExhausted, bits)
	}
	return piece, nil
}

// next is the first prefix of a length behind p; invalid at the end of all
// addresses.
func next(p netip.Prefix, bits int) netip.Prefix {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits() - 1; i >= 0; i-- { // add 1 at the last bit of the prefix
		mask := byte(0x80 >> (i % 8))
		b[i/8] ^= mask
		if b[i/8]&mask != 0 {
			addr, _ := netip.AddrFromSlice(b)
			return netip.PrefixFrom(addr, bits)
		}
	}
	return netip.Prefix{}
}

func pieceBits(p netip.Prefix) int {
	if p.Addr().Is4() {
		return bits4
	}
	return bits6
}
