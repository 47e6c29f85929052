package pools

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/metallb"
)

// Allocator knows which Service has which address and gives out more. It isn't safe for
// concurrent use.
type Allocator struct {
	set      *Set
	tenants  map[netip.Addr][]*tenant
	services map[types.NamespacedName]*tenant
	byKey    map[Key]map[netip.Addr]bool // addresses that can be shared, by who may
	// used says of a range that every address before this one is had by somebody, so that
	// giving out thousands doesn't look at all of them each time.
	used map[*addresses]netip.Addr
	// changes counts what others may see: a Service has something else than before.
	changes int
}

// tenant is a Service and what it has.
type tenant struct {
	name  types.NamespacedName
	addrs []netip.Addr
	key   Key
	ports []port
}

// equal tells whether both have the same; nil has nothing.
func (t *tenant) equal(other *tenant) bool {
	if other == nil {
		return len(t.addrs) == 0
	}
	return slices.Equal(t.addrs, other.addrs) && t.key == other.key && slices.Equal(t.ports, other.ports)
}

// NewAllocator gives out the addresses of set. Tell it of all Services (Hold) before the
// first Allocate.
func NewAllocator(set *Set) *Allocator {
	return &Allocator{
		set: set, tenants: map[netip.Addr][]*tenant{}, services: map[types.NamespacedName]*tenant{},
		byKey: map[Key]map[netip.Addr]bool{}, used: map[*addresses]netip.Addr{},
	}
}

// Changes is a number that is another when a Service has got, lost or changed what another
// may be waiting for.
func (a *Allocator) Changes() int { return a.changes }

// Set gives the pools.
func (a *Allocator) Set() *Set { return a.set }

// Hold notes that the Service has the addresses of its status. It reports false, and notes
// nothing, where another has one of them and they may not share: whoever is told first
// keeps it, so tell the older first.
func (a *Allocator) Hold(svc *corev1.Service) bool {
	t := &tenant{nameOf(svc), Addresses(svc), KeyOf(svc), portsOf(svc)}
	for _, addr := range t.addrs {
		if a.conflict(addr, t) != nil {
			return false
		}
	}
	a.put(t, a.services[t.name])
	return true
}

// Release notes that the Service has nothing any more.
func (a *Allocator) Release(name types.NamespacedName) {
	if a.remove(name) != nil {
		a.changes++
	}
}

// remove gives what the Service had; nil: nothing.
func (a *Allocator) remove(name types.NamespacedName) *tenant {
	t := a.services[name]
	if t == nil {
		return nil
	}
	delete(a.services, name)
	for _, addr := range t.addrs {
		left := slices.DeleteFunc(a.tenants[addr], func(other *tenant) bool { return other == t })
		if len(left) > 0 {
			a.tenants[addr] = left
			continue
		}
		delete(a.tenants, addr)
		delete(a.byKey[t.key], addr)
		if r := a.set.rangeOf(addr); r != nil && addr.Less(a.used[r]) {
			a.used[r] = addr
		}
	}
	if len(a.byKey[t.key]) == 0 {
		delete(a.byKey, t.key)
	}
	return t
}

// put gives the Service what t says, instead of what it had before.
func (a *Allocator) put(t, before *tenant) {
	a.remove(t.name)
	if !t.equal(before) {
		a.changes++
	}
	if len(t.addrs) == 0 {
		return
	}
	a.services[t.name] = t
	for _, addr := range t.addrs {
		a.tenants[addr] = append(a.tenants[addr], t)
		if t.key.Sharing == "" {
			continue
		}
		if a.byKey[t.key] == nil {
			a.byKey[t.key] = map[netip.Addr]bool{}
		}
		a.byKey[t.key][addr] = true
	}
}

// Has gives the addresses that a Service was given.
func (a *Allocator) Has(name types.NamespacedName) []netip.Addr {
	if t := a.services[name]; t != nil {
		return t.addrs
	}
	return nil
}

// Tenants gives the Services that have an address, by name.
func (a *Allocator) Tenants(addr netip.Addr) []types.NamespacedName {
	var names []types.NamespacedName
	for _, t := range a.tenants[addr] {
		names = append(names, t.name)
	}
	slices.SortFunc(names, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return names
}

// Given gives all addresses that Services have, with those of no pool, in order.
func (a *Allocator) Given() []netip.Addr {
	given := make([]netip.Addr, 0, len(a.tenants))
	for addr := range a.tenants {
		given = append(given, addr)
	}
	slices.SortFunc(given, netip.Addr.Compare)
	return given
}

// Counts gives what the status of each pool says, by name.
func (a *Allocator) Counts() map[string]metallb.IPAddressPoolStatus {
	counts := make(map[string]metallb.IPAddressPoolStatus, len(a.set.byName))
	for name, p := range a.set.byName {
		counts[name] = metallb.IPAddressPoolStatus{AvailableIPv4: p.size(32), AvailableIPv6: p.size(128)}
	}
	for addr := range a.tenants {
		p := a.set.Find(addr)
		if p == nil {
			continue
		}
		c := counts[p.Name]
		if addr.Is4() {
			c.AssignedIPv4++
			c.AvailableIPv4--
		} else {
			c.AssignedIPv6++
			c.AvailableIPv6--
		}
		counts[p.Name] = c
	}
	return counts
}

// conflict gives the reason why t can't have an address, because of those who have it.
func (a *Allocator) conflict(addr netip.Addr, t *tenant) *Refusal {
	for _, other := range a.tenants[addr] {
		if other.name == t.name {
			continue
		}
		if t.key.Sharing == "" || other.key.Sharing == "" {
			return refuse(InUse, "%s is the address of Service %s; ask for another, or give both the annotation %s with the same value", addr, other.name, SharingAnnotation)
		}
		if t.key.Sharing != other.key.Sharing {
			return refuse(InUse, "%s is the address of Service %s, which shares it by the key %q and not %q; ask for another address, or give both the same key",
				addr, other.name, other.key.Sharing, t.key.Sharing)
		}
		if t.key != other.key {
			return refuse(InUse, "%s is the address of Service %s; to share it by the key %q, both need externalTrafficPolicy Cluster, or Local and the same selector",
				addr, other.name, t.key.Sharing)
		}
		for _, p := range t.ports {
			if slices.Contains(other.ports, p) {
				return refuse(InUse, "%s is the address of Service %s, which has the port %s there too; Services that share an address need different ports", addr, other.name, p)
			}
		}
	}
	return nil
}

// free gives an address of the range for t: the first that nobody has.
func (a *Allocator) free(r *addresses) (netip.Addr, bool) {
	addr := a.used[r]
	if !addr.IsValid() {
		addr = r.first
	}
	for ; addr.IsValid() && !r.last.Less(addr); addr = addr.Next() {
		if len(a.tenants[addr]) == 0 && r.pool.gives(addr) {
			a.used[r] = addr
			return addr, true
		}
	}
	a.used[r] = addr // after the last; no range ends where all addresses do
	return netip.Addr{}, false
}

// shared gives the first address of the pool that t may share.
func (a *Allocator) shared(p *pool, family int, t *tenant) (netip.Addr, bool) {
	var best netip.Addr
	for addr := range a.byKey[t.key] {
		r := a.set.rangeOf(addr)
		if addr.BitLen() == family && r != nil && r.pool == p && p.gives(addr) && a.conflict(addr, t) == nil &&
			(!best.IsValid() || addr.Less(best)) {
			best = addr
		}
	}
	return best, best.IsValid()
}

// pick gives an address of a pool: one that the Service may share, else one that is free.
func (a *Allocator) pick(p *pool, family int, t *tenant) (netip.Addr, bool) {
	if t.key.Sharing != "" {
		if addr, ok := a.shared(p, family, t); ok {
			return addr, true
		}
	}
	for _, r := range p.ranges {
		if r.first.BitLen() == family {
			if addr, ok := a.free(r); ok {
				return addr, true
			}
		}
	}
	return netip.Addr{}, false
}
