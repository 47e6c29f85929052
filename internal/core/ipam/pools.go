package ipam

import (
	"fmt"
	"iter"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Pools are the ranges that a cluster's Services draw from: one or more of addresses
// for each family, and one of ports.
type Pools struct {
	ranges []*Range // the primary family's first
	ports  *PortRange
}

// NewPools puts ranges together. The first one's family is the cluster's primary.
func NewPools(ports *PortRange, ranges ...*Range) (*Pools, error) {
	if ports == nil || len(ranges) == 0 {
		return nil, fmt.Errorf("pools for services: a port range and an address range are needed")
	}
	for i, r := range ranges {
		for _, earlier := range ranges[:i] {
			if r.prefix.Overlaps(earlier.prefix) {
				return nil, fmt.Errorf("pools for services: %s and %s overlap", earlier.prefix, r.prefix)
			}
		}
	}
	return &Pools{ranges: ranges, ports: ports}, nil
}

// Families gives the families that have a range, the primary first.
func (p *Pools) Families() []corev1.IPFamily {
	families := []corev1.IPFamily{p.ranges[0].Family()}
	for _, r := range p.ranges {
		if r.Family() != families[0] {
			return append(families, r.Family())
		}
	}
	return families
}

// Mark notes claims that the storage holds, such as those of another server's Service
// that a watch shows. Claims outside the pools are ignored.
func (p *Pools) Mark(claims ...Claim) {
	for _, c := range claims {
		p.mark(c.Key)
	}
}

// Free notes that the storage no longer holds the claims.
func (p *Pools) Free(claims ...Claim) {
	for _, c := range claims {
		p.release(c.Key)
	}
}

// Replace makes the hints equal to the keys of the claims that the storage holds: at
// the start, and when a range is full although it shouldn't be.
func (p *Pools) Replace(keys iter.Seq[string]) {
	ports := newSet(p.ports.numbers.size)
	addrs := make([]*set, len(p.ranges))
	for i, r := range p.ranges {
		addrs[i] = newSet(r.numbers.size)
	}
	for key := range keys {
		addr, port := parseKey(key)
		if p.ports.Contains(port) {
			ports.add(p.ports.number(port))
		}
		for i, r := range p.ranges {
			if n, ok := r.number(addr); ok {
				addrs[i].add(n)
			}
		}
	}
	p.ports.numbers.replace(ports)
	for i, r := range p.ranges {
		r.numbers.replace(addrs[i])
	}
}

// mark reports whether the key is of the pools and was free.
func (p *Pools) mark(key string) bool {
	addr, port := parseKey(key)
	if r := p.rangeOf(addr); r != nil {
		marked, _ := r.Mark(addr)
		return marked
	}
	marked, err := p.ports.Mark(port)
	return err == nil && marked
}

func (p *Pools) release(key string) {
	addr, port := parseKey(key)
	if r := p.rangeOf(addr); r != nil {
		r.Release(addr)
		return
	}
	p.ports.Release(port)
}

func (p *Pools) rangeOf(addr netip.Addr) *Range {
	for _, r := range p.ranges {
		if r.Contains(addr) {
			return r
		}
	}
	return nil
}

// nextAddress tries the family's ranges in their order.
func (p *Pools) nextAddress(family corev1.IPFamily) (netip.Addr, error) {
	err := fmt.Errorf("no range of family %s", family)
	for _, r := range p.ranges {
		if r.Family() != family {
			continue
		}
		var addr netip.Addr
		if addr, err = r.Next(); err == nil {
			return addr, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("failed to allocate a serviceIP: %w", err)
}

func (p *Pools) nextPort() (int32, error) {
	port, err := p.ports.Next()
	if err != nil {
		return 0, fmt.Errorf("failed to allocate a nodePort: %w", err)
	}
	return port, nil
}

// checkAddress says why the pools can't give the address, nil when they can. The
// error names the family's first range.
func (p *Pools) checkAddress(addr netip.Addr) error {
	if p.rangeOf(addr) != nil {
		return nil
	}
	for _, r := range p.ranges {
		if r.prefix.Addr().Is4() == addr.Is4() {
			return r.notInRange(addr)
		}
	}
	return p.ranges[0].notInRange(addr)
}
