package records

import (
	"net/netip"
)

// ReverseZones are the zones of a range's reverse names, without a final dot. A range that
// doesn't end between two labels has several: of 10.96.0.0/12 96.10.in-addr.arpa to
// 111.10.in-addr.arpa. What is wider than a label has none: it would be everybody's.
func ReverseZones(p netip.Prefix) (out []string) {
	label := 8 // bits of each
	if p.Addr().Is6() {
		label = 4
	}
	bits := (p.Bits() + label - 1) / label * label
	if p.Bits() <= 0 || !p.IsValid() {
		return nil
	}
	first := p.Masked().Addr().AsSlice()
	for n := range 1 << (bits - p.Bits()) {
		raw := append([]byte{}, first...)
		last := (bits - 1) / 8
		raw[last] |= byte(n << ((8 - bits%8) % 8))
		a, _ := netip.AddrFromSlice(raw)
		name := string(ReverseName(a))
		for range (a.BitLen() - bits) / label {
			name = name[1+int(name[0]):]
		}
		text := Name(name).String()
		out = append(out, text[:len(text)-1])
	}
	return out
}
