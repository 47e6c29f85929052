package nftables

import (
	"net/netip"
	"slices"
)

// refs is an address set of the kernel with the number of reasons for each
// address. There are as many as there are backends: maps without pointers, and by
// the family's own length, are a fraction of one by netip.Addr.
type refs struct {
	v4  map[[4]byte]ref
	v6  map[[16]byte]ref
	may []netip.Addr // may differ; some of them more than once
}

type ref struct {
	want int32 // reasons
	have bool  // the kernel has it
}

func newRefs() refs { return refs{v4: map[[4]byte]ref{}, v6: map[[16]byte]ref{}} }

func (r *refs) get(a netip.Addr) ref {
	if a.Is4() {
		return r.v4[a.As4()]
	}
	return r.v6[a.As16()]
}

func (r *refs) put(a netip.Addr, e ref) {
	switch {
	case a.Is4() && e == ref{}:
		delete(r.v4, a.As4())
	case a.Is4():
		r.v4[a.As4()] = e
	case e == ref{}:
		delete(r.v6, a.As16())
	default:
		r.v6[a.As16()] = e
	}
}

func (r *refs) add(a netip.Addr, by int) {
	e := r.get(a)
	before := e.want > 0
	e.want += int32(by)
	r.put(a, e)
	if before != (e.want > 0) {
		r.may = append(r.may, a)
	}
}

// expect makes room for addresses that are to be adopted, and each to be wanted again.
func (r *refs) expect(n int, ipv6 bool) {
	r.may = slices.Grow(r.may, 2*n)
	switch {
	case ipv6 && len(r.v6) == 0:
		r.v6 = make(map[[16]byte]ref, n)
	case !ipv6 && len(r.v4) == 0:
		r.v4 = make(map[[4]byte]ref, n)
	}
}

// adopt takes an address that the kernel has.
func (r *refs) adopt(a netip.Addr) {
	e := r.get(a)
	e.have = true
	r.put(a, e)
	r.may = append(r.may, a)
}

func (r *refs) wants(a netip.Addr) bool { return r.get(a).want > 0 }
func (r *refs) has(a netip.Addr) bool   { return r.get(a).have }

// wanted gives the addresses with a reason.
func (r *refs) wanted() []netip.Addr { return r.those(func(e ref) bool { return e.want > 0 }) }

// held gives the addresses that the kernel has.
func (r *refs) held() []netip.Addr { return r.those(func(e ref) bool { return e.have }) }

func (r *refs) those(keep func(ref) bool) (out []netip.Addr) {
	for a, e := range r.v4 {
		if keep(e) {
			out = append(out, netip.AddrFrom4(a))
		}
	}
	for a, e := range r.v6 {
		if keep(e) {
			out = append(out, netip.AddrFrom16(a))
		}
	}
	return out
}

// settle gives what to add to the kernel's set and what to delete from it.
func (r *refs) settle() (add, del []netip.Addr) {
	for _, a := range r.may {
		switch e := r.get(a); {
		case e.want > 0 && !e.have:
			e.have = true
			r.put(a, e)
			add = append(add, a)
		case e.want <= 0 && e.have:
			del = append(del, a)
			e.have = false
			r.put(a, e)
		}
	}
	r.may = nil
	return add, del
}
