package records

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// DefaultTTL is what CoreDNS' kubernetes plugin gives when nothing else is said:
// long enough for one request's look-ups, short enough for changes to show.
const DefaultTTL = 5 * time.Second

// SchemaVersion is the version of the specification (2.2).
const SchemaVersion = "1.1.0"

// IsNameServer knows the Service through which the zone is asked; the zone's NS
// record points to its addresses.
func IsNameServer(service types.NamespacedName) bool {
	return service == types.NamespacedName{Namespace: "kube-system", Name: "kube-dns"}
}

// PodMode says which names below pod.ZONE are answered.
type PodMode uint8

const (
	// PodsBySpelling answers 1-2-3-4.NAMESPACE.pod.ZONE with the address that is
	// spelt, whether such a pod exists or not (specification 2.6).
	PodsBySpelling PodMode = iota
	// PodsOff knows no such names.
	PodsOff
	// PodsExisting answers where a pod of that namespace has the address.
	PodsExisting
)

// Config is what a zone is made of besides Services.
type Config struct {
	Domain  string         // "cluster.local"
	TTL     time.Duration  // 0: DefaultTTL; whole seconds
	Reverse []netip.Prefix // the Services', pods' and guests' ranges
	Pods    PodMode
	Search  bool // names that clients ask for are looked for in their namespace, too
}

// Change is a Service as it is now. Service nil means that it is gone.
type Change struct {
	Name    types.NamespacedName
	Service *catalog.Service
	Slices  []*catalog.Slice
}

// Zone makes Tables. It is the one writer and not safe for concurrent use; the
// Tables are.
type Zone struct {
	table  Table
	server Name // ns.dns.ZONE
	mail   Name

	search     bool
	clients    map[netip.Addr][]*Pod // with search: who asks from an address
	clientKeys int                   // those of the table's keys that are no names

	own    []Owner
	held   map[types.NamespacedName]held
	pods   map[types.NamespacedName]*Pod
	named  map[Name][]*Pod // whose names come from pods
	listed map[string]bool // the namespaces somebody told, nil when nobody did
	used   map[string]int  // Services and pods per namespace
}

// held is a Service as it is in the table: which names it put there follows from that.
// The values are the caller's, who keeps them anyway.
type held struct {
	service *catalog.Service
	slices  []*catalog.Slice
}

// NewZone makes an empty zone.
func NewZone(cfg Config) (*Zone, error) {
	domain, err := ParseName(cfg.Domain)
	if err != nil {
		return nil, fmt.Errorf("cluster domain: %w", err)
	}
	// The longest names begin with three full labels and "svc" or "pod".
	if _, ok := under(domain, "svc", string(make([]byte, maxLabel)), string(make([]byte, maxLabel))); !ok || domain == Root {
		return nil, fmt.Errorf("cluster domain %q: too short or too long to hold the names of Services", cfg.Domain)
	}
	z := &Zone{table: Table{
		zone:    domain,
		podMode: cfg.Pods,
		reverse: slices.Clone(cfg.Reverse),
		ttl:     uint32(cmp.Or(cfg.TTL, DefaultTTL) / time.Second),
	}}
	z.table.pods, _ = under(domain, "pod")
	z.table.machines, _ = under(domain, "vm")
	z.server, _ = under(domain, "ns", "dns")
	z.mail, _ = under(domain, "hostmaster")
	z.search, z.clients = cfg.Search, map[netip.Addr][]*Pod{}
	z.pods, z.named = map[types.NamespacedName]*Pod{}, map[Name][]*Pod{}
	z.clear()
	return z, nil
}

// Table gives the records as they are now, under a serial number for the SOA.
func (z *Zone) Table(serial uint32) *Table {
	t := z.table
	t.anyNamespace = z.listed == nil
	t.size = z.table.names.size - z.clientKeys
	for i := range t.soa {
		t.soa[i] = newSOA(z.server, z.mail, serial, t.ttl)
	}
	return &t
}

// Replace says that these Services are all there are.
func (z *Zone) Replace(all []Change) {
	z.clear()
	z.Update(all)
}

// Update takes the Services that changed.
func (z *Zone) Update(changes []Change) {
	e := new(edit)
	for _, c := range changes {
		z.apply(e, c)
	}
}

// Reverse replaces the ranges whose reverse names are the zone's.
func (z *Zone) Reverse(ranges []netip.Prefix) { z.table.reverse = slices.Clone(ranges) }

// Namespaces tells which namespaces exist. Until somebody does, the namespaces
// of Services exist, and pod names are answered in all.
func (z *Zone) Namespaces(names []string) {
	e := new(edit)
	old := z.listed
	z.listed = make(map[string]bool, len(names))
	for _, n := range names {
		z.listed[n] = true
		if !old[n] {
			z.namespace(e, n)
		}
	}
	for n := range old {
		z.namespace(e, n)
	}
	for n := range z.used {
		z.namespace(e, n)
	}
}

// Own replaces the names that people have set themselves. Names of the zone and
// reverse names aren't among them.
func (z *Zone) Own(owners []Owner) {
	e := new(edit)
	for _, o := range z.own {
		z.drop(e, o.Name)
	}
	z.own = slices.Clone(owners)
	z.putOwn(e)
}

func (z *Zone) putOwn(e *edit) {
	for _, o := range z.own {
		z.put(e, o)
	}
}

// clear leaves the names that don't come from Services.
func (z *Zone) clear() {
	z.held = map[types.NamespacedName]held{}
	z.used = map[string]int{}
	z.table.names = newTrie()
	e := new(edit)
	exists := []string{"svc", "dns", "vm"}
	if z.table.podMode != PodsOff {
		exists = append(exists, "pod")
	}
	for _, label := range exists {
		name, _ := under(z.table.zone, label)
		z.put(e, Owner{Name: name})
	}
	version, _ := under(z.table.zone, "dns-version")
	z.put(e, Owner{Name: version, Text: SchemaVersion})
	z.nameServer(e, nil)
	z.putOwn(e)
	for n := range z.listed {
		z.namespace(e, n)
	}
	for name := range z.pods {
		z.count(e, name.Namespace, 1)
	}
	z.clientKeys = 0
	for a := range z.clients {
		z.client(e, a)
	}
	z.exchange(e, nil, z.podOwners(slices.Collect(maps.Keys(z.named))))
}

func (z *Zone) put(e *edit, o Owner)    { z.table.names.set(e, o.Name.key(), encode(o, z.table.ttl)) }
func (z *Zone) drop(e *edit, name Name) { z.table.names.remove(e, name.key()) }

// apply puts one Service's names in the place of those it had.
func (z *Zone) apply(e *edit, c Change) {
	old, was := z.held[c.Name]
	now := held{c.Service, c.Slices}
	if was && c.Service == old.service && !old.namesEndpoints() && !now.namesEndpoints() {
		z.held[c.Name] = now
		return // nearly every change of endpoints
	}
	z.exchange(e, z.ownersOf(old), z.ownersOf(now))
	switch {
	case c.Service != nil:
		z.held[c.Name] = now
		if !was {
			z.count(e, c.Name.Namespace, 1)
		}
	case was:
		delete(z.held, c.Name)
		z.count(e, c.Name.Namespace, -1)
	}
	if IsNameServer(c.Name) {
		z.nameServer(e, c.Service)
	}
}

// namesEndpoints tells whether a Service's names depend on its endpoints.
func (h held) namesEndpoints() bool {
	return h.service.Headless || slices.ContainsFunc(h.slices, func(s *catalog.Slice) bool {
		return slices.ContainsFunc(s.Endpoints, func(e catalog.Endpoint) bool { return e.Hostname != "" })
	})
}

func (z *Zone) ownersOf(h held) []Owner {
	if h.service == nil {
		return nil
	}
	return OfService(z.table.zone, h.service, h.slices)
}

// exchange takes names out and puts others in. Reverse names may be others' as well.
func (z *Zone) exchange(e *edit, before, after []Owner) {
	type pair struct{ name, host Name } // no host: a name that is nobody else's
	of := func(o Owner) pair {
		if len(o.Hosts) == 0 {
			return pair{name: o.Name}
		}
		return pair{o.Name, o.Hosts[0]}
	}
	had, have := make(map[pair]bool, len(before)), make(map[pair]bool, len(after))
	for _, o := range before {
		had[of(o)] = true
	}
	for _, o := range after {
		have[of(o)] = true
	}
	for _, o := range before {
		switch p := of(o); {
		case have[p]:
		case p.host == "":
			z.drop(e, o.Name)
		default:
			z.point(e, p.name, p.host, false)
		}
	}
	for _, o := range after {
		switch p := of(o); {
		case p.host == "":
			z.put(e, o)
		case !had[p]:
			z.point(e, p.name, p.host, true)
		}
	}
}

// count keeps which namespaces have something, by Services and pods that come and go.
func (z *Zone) count(e *edit, ns string, by int) {
	before := z.used[ns]
	if z.used[ns] += by; z.used[ns] == 0 {
		delete(z.used, ns)
	}
	if before == 0 || z.used[ns] == 0 {
		z.namespace(e, ns)
	}
}

// namespace puts or takes away the names of a namespace: NS.svc.ZONE, NS.vm.ZONE and
// NS.pod.ZONE.
func (z *Zone) namespace(e *edit, ns string) {
	exists := z.listed[ns] || z.used[ns] > 0
	for _, label := range []string{"svc", "vm", "pod"} {
		name, ok := under(z.table.zone, ns, label)
		switch {
		case !ok || label == "pod" && z.table.podMode == PodsOff:
		case exists:
			z.put(e, Owner{Name: name})
		default:
			z.drop(e, name)
		}
	}
}

// point has a reverse name lead to a host, too, or no longer. An address that is a
// Service's own answers with that alone, as upstream's server does; one of endpoints
// with their names, of which a pod may have many; else there may be a machine.
func (z *Zone) point(e *edit, name, host Name, add bool) {
	var all []Name
	if n, there := z.table.names.find([]byte(name.key())); there {
		for _, typ := range []uint16{TypePTR, typeOutranked} {
			if s, ok := n.set(typ); ok {
				all = append(all, s.targets()...)
			}
		}
	}
	all = slices.DeleteFunc(all, func(n Name) bool { return n == host })
	if add {
		all = append(all, host)
	}
	if len(all) == 0 {
		z.drop(e, name)
		return
	}
	slices.SortFunc(all, func(a, b Name) int {
		return cmp.Or(cmp.Compare(z.rank(a), z.rank(b)), strings.Compare(string(a), string(b)))
	})
	best := 1
	for best < len(all) && z.rank(all[best]) == z.rank(all[0]) {
		best++
	}
	z.put(e, Owner{Name: name, Hosts: all[:best], outranked: all[best:]})
}

// rank orders what an address may lead to: a Service, which has two labels below
// svc.ZONE, an endpoint, which has three, and a machine.
func (z *Zone) rank(host Name) int {
	if host.IsUnder(z.table.machines) {
		return maxName
	}
	labels := 0
	for at := 0; len(host)-at > len(z.table.zone); at += 1 + int(host[at]) {
		labels++
	}
	return labels
}

// nameServer writes the zone's NS record and the addresses of the server it
// names: the cluster IPs of the name server's Service, when that exists.
func (z *Zone) nameServer(e *edit, svc *catalog.Service) {
	var addrs []netip.Addr
	if svc != nil {
		addrs = svc.ClusterIPs
	}
	z.put(e, Owner{Name: z.server, Addrs: addrs})
	z.put(e, Owner{Name: z.table.zone, NS: []SRV{{Target: z.server, Addrs: addrs}}})
}
