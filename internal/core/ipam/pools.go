package ipam

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
)

// Pools are the ranges that a cluster's Services draw from: one of ports, and of
// addresses any number for each family. Ranges of addresses come and go with the claims
// of ServiceCIDR objects, as Replace, Mark and Free show them; they may overlap. An
// address is given under the claim of a range that contains it (Assignment.Requires),
// so that the transaction refuses it once that range is gone.
type Pools struct {
	ports *PortRange

	mu     sync.Mutex              // guards changes of ranges, of which readers see one version
	ranges atomic.Pointer[[]*pool] // in the order in which they are used
}

// pool is one range and what holds it.
type pool struct {
	*Range
	// keys are the ServiceCIDRs' claims on the range, the preferred first; a fixed
	// range has none.
	keys []string
}

// NewPools puts ranges together that are there whatever ServiceCIDRs say. The first
// one's family is the cluster's primary.
func NewPools(ports *PortRange, ranges ...*Range) (*Pools, error) {
	if ports == nil {
		return nil, fmt.Errorf("pools for services: a port range is needed")
	}
	fixed := make([]*pool, len(ranges))
	for i, r := range ranges {
		for _, earlier := range ranges[:i] {
			if r.prefix.Overlaps(earlier.prefix) {
				return nil, fmt.Errorf("pools for services: %s and %s overlap", earlier.prefix, r.prefix)
			}
		}
		fixed[i] = &pool{Range: r}
	}
	p := &Pools{ports: ports}
	p.ranges.Store(&fixed)
	return p, nil
}

func (p *Pools) all() []*pool { return *p.ranges.Load() }

// Families gives the families that have a range, the first range's first.
func (p *Pools) Families() []corev1.IPFamily {
	var families []corev1.IPFamily
	for _, r := range p.all() {
		if !slices.Contains(families, r.Family()) {
			families = append(families, r.Family())
		}
	}
	return families
}

// Mark notes claims that the storage holds, such as those of another server's Service
// that a watch shows. Claims outside the pools are ignored. The claim of a ServiceCIDR
// adds its range, of which nothing is known to be taken until the next Replace.
func (p *Pools) Mark(claims ...Claim) {
	for _, c := range claims {
		if prefix, ok := parseRangeKey(c.Key); ok {
			p.addRange(c.Key, prefix)
			continue
		}
		p.mark(c.Key)
	}
}

// Free notes that the storage no longer holds the claims.
func (p *Pools) Free(claims ...Claim) {
	for _, c := range claims {
		if _, ok := parseRangeKey(c.Key); ok {
			p.removeRange(c.Key)
			continue
		}
		p.release(c.Key)
	}
}

// Replace makes the ranges and the hints equal to the keys of the claims that the
// storage holds: at the start, when a range was added, and when one is full although it
// shouldn't be.
func (p *Pools) Replace(keys iter.Seq[string]) {
	p.replaceRanges(keys)
	ports := newSet(p.ports.numbers.size)
	ranges := p.all()
	addrs := make([]*set, len(ranges))
	for i, r := range ranges {
		addrs[i] = newSet(r.numbers.size)
	}
	for key := range keys {
		addr, port := parseKey(key)
		if p.ports.Contains(port) {
			ports.add(p.ports.number(port))
		}
		for i, r := range ranges {
			if n, ok := r.number(addr); ok {
				addrs[i].add(n)
			}
		}
	}
	p.ports.numbers.replace(ports)
	for i, r := range ranges {
		r.numbers.replace(addrs[i])
	}
}

// change makes another version of the ranges. The ranges that stay keep their hints;
// edit may change the pools it is given.
func (p *Pools) change(edit func([]*pool) []*pool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := make([]*pool, 0, len(p.all())+1)
	for _, r := range p.all() {
		next = append(next, &pool{Range: r.Range, keys: slices.Clone(r.keys)})
	}
	next = edit(next)
	slices.SortStableFunc(next, func(a, b *pool) int { return compareRangeKeys(a.first(), b.first()) })
	p.ranges.Store(&next)
}

func (p *Pools) addRange(key string, prefix netip.Prefix) {
	p.change(func(list []*pool) []*pool { return withRange(list, key, prefix) })
}

func (p *Pools) removeRange(key string) {
	p.change(func(list []*pool) []*pool {
		return withoutRanges(list, func(k string) bool { return k == key })
	})
}

func (p *Pools) replaceRanges(keys iter.Seq[string]) {
	stored := map[string]netip.Prefix{}
	for key := range keys {
		if prefix, ok := parseRangeKey(key); ok {
			stored[key] = prefix
		}
	}
	p.change(func(list []*pool) []*pool {
		list = withoutRanges(list, func(key string) bool { _, ok := stored[key]; return !ok })
		for key, prefix := range stored {
			list = withRange(list, key, prefix)
		}
		return list
	})
}

// withRange adds a ServiceCIDR's claim. One on a range that can't be used is passed
// over: validation refuses such a ServiceCIDR, so it is another version's.
func withRange(list []*pool, key string, prefix netip.Prefix) []*pool {
	for _, r := range list {
		if r.prefix == prefix && len(r.keys) > 0 {
			if !slices.Contains(r.keys, key) {
				r.keys = append(r.keys, key)
				slices.SortFunc(r.keys, compareRangeKeys)
			}
			return list
		}
	}
	if r, err := NewRange(prefix, nil); err == nil {
		list = append(list, &pool{Range: r, keys: []string{key}})
	}
	return list
}

// withoutRanges takes claims away, and the ranges which nothing claims any more.
func withoutRanges(list []*pool, gone func(key string) bool) []*pool {
	return slices.DeleteFunc(list, func(r *pool) bool {
		had := len(r.keys)
		r.keys = slices.DeleteFunc(r.keys, gone)
		return had > 0 && len(r.keys) == 0
	})
}

// first is the claim under which the range's addresses are given, "" for a fixed range.
func (r *pool) first() string {
	if len(r.keys) == 0 {
		return ""
	}
	return r.keys[0]
}

// compareRangeKeys orders fixed ranges first, in their own order, then those of the
// default ServiceCIDR, then the others by name.
func compareRangeKeys(a, b string) int {
	rank := func(key string) (int, string) {
		switch name := key[strings.LastIndexByte(key, '/')+1:]; name {
		case "":
			return 0, ""
		case DefaultServiceCIDR:
			return 1, ""
		default:
			return 2, name
		}
	}
	rankA, nameA := rank(a)
	rankB, nameB := rank(b)
	if c := cmp.Or(cmp.Compare(rankA, rankB), cmp.Compare(nameA, nameB)); c != 0 || rankA == 0 {
		return c
	}
	return cmp.Compare(a, b)
}

// mark reports whether the key is of the pools and was free.
func (p *Pools) mark(key string) bool {
	addr, port := parseKey(key)
	if !addr.IsValid() {
		marked, err := p.ports.Mark(port)
		return err == nil && marked
	}
	any := false
	for _, r := range p.all() {
		marked, err := r.Mark(addr)
		any = any || err == nil && marked
	}
	return any
}

func (p *Pools) release(key string) {
	addr, port := parseKey(key)
	if !addr.IsValid() {
		p.ports.Release(port)
		return
	}
	for _, r := range p.all() {
		r.Release(addr)
	}
}

func (p *Pools) rangeOf(addr netip.Addr) *pool {
	for _, r := range p.all() {
		if r.Contains(addr) {
			return r
		}
	}
	return nil
}

// nextAddress tries the family's ranges in their order. It also gives the claim of the
// range that had one, which the address is given under.
func (p *Pools) nextAddress(family corev1.IPFamily) (addr netip.Addr, under string, err error) {
	for _, r := range p.all() {
		if r.Family() != family {
			continue
		}
		for {
			addr, err := r.Next()
			if err != nil {
				break
			}
			if p.markOthers(r, addr) {
				return addr, r.first(), nil
			}
		}
	}
	err = fmt.Errorf("%w: no ServiceCIDR of family %s is ready", ErrFull, family)
	if valid := p.valid(family); valid != "" {
		err = fullError(valid)
	}
	return netip.Addr{}, "", fmt.Errorf("failed to allocate a serviceIP: %w", err)
}

// markOthers marks in the ranges that overlap with r what was picked from it. When one
// of them knows the address to be taken it stays marked in all.
func (p *Pools) markOthers(r *pool, addr netip.Addr) (free bool) {
	free = true
	for _, other := range p.all() {
		if other.Range != r.Range && other.Contains(addr) {
			marked, _ := other.Mark(addr) // it contains the address
			free = free && marked
		}
	}
	return free
}

func (p *Pools) nextPort() (int32, error) {
	port, err := p.ports.Next()
	if err != nil {
		return 0, fmt.Errorf("failed to allocate a nodePort: %w", err)
	}
	return port, nil
}

// checkAddress says why the pools can't give the address, nil when they can. The
// error names the family's ranges.
func (p *Pools) checkAddress(addr netip.Addr) error {
	if p.rangeOf(addr) != nil {
		return nil
	}
	family := FamilyOf(addr)
	valid := p.valid(family)
	if valid == "" {
		valid = "empty: no ServiceCIDR of family " + string(family) + " is ready"
	}
	return &NotInRangeError{Addr: addr, Valid: valid}
}

// valid lists the family's ranges.
func (p *Pools) valid(family corev1.IPFamily) string {
	var list []string
	for _, r := range p.all() {
		if r.Family() == family {
			list = append(list, r.prefix.String())
		}
	}
	return strings.Join(list, ", ")
}
