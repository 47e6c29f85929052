package records

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
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
)

// Config is what a zone is made of besides Services.
type Config struct {
	Domain  string         // "cluster.local"
	TTL     time.Duration  // 0: DefaultTTL; whole seconds
	Reverse []netip.Prefix // the Services', pods' and guests' ranges
	Pods    PodMode
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

	own    []Owner
	held   map[types.NamespacedName]*held
	listed map[string]bool // the namespaces somebody told, nil when nobody did
	used   map[string]int  // Services per namespace
	hosts  map[Name][]pointerTo
}

// held is what one Service has put into the table.
type held struct {
	names   []Name // its own
	reverse []Name // shared with other Services
}

// pointerTo is one Service's PTR record in a reverse name.
type pointerTo struct {
	service types.NamespacedName
	cluster bool // the address is the Service's own
	host    Name
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
	z.server, _ = under(domain, "ns", "dns")
	z.mail, _ = under(domain, "hostmaster")
	z.clear()
	return z, nil
}

// Table gives the records as they are now, under a serial number for the SOA.
func (z *Zone) Table(serial uint32) *Table {
	t := z.table
	t.anyNamespace = z.listed == nil
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
		z.table.names.remove(e, o.Name)
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
	z.held = map[types.NamespacedName]*held{}
	z.used = map[string]int{}
	z.hosts = map[Name][]pointerTo{}
	z.table.names = newTrie()
	e := new(edit)
	exists := []string{"svc", "dns"}
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
}

func (z *Zone) put(e *edit, o Owner) { z.table.names.set(e, o.Name, encode(o, z.table.ttl)) }

// apply puts one Service's names in the place of those it had.
func (z *Zone) apply(e *edit, c Change) {
	old := cmp.Or(z.held[c.Name], &held{})
	now := &held{}
	var owners []Owner
	if c.Service != nil {
		owners = OfService(z.table.zone, c.Service, c.Slices)
	}
	z.unpoint(c.Name, old.reverse)
	for _, o := range owners {
		if len(o.Hosts) == 0 {
			now.names = append(now.names, o.Name)
			z.put(e, o)
			continue
		}
		now.reverse = append(now.reverse, o.Name)
		p := pointerTo{service: c.Name, cluster: o.Hosts[0] == owners[0].Name, host: o.Hosts[0]}
		z.hosts[o.Name] = append(z.hosts[o.Name], p)
	}
	kept := make(map[Name]bool, len(now.names))
	for _, n := range now.names {
		kept[n] = true
	}
	for _, n := range old.names {
		if !kept[n] {
			z.table.names.remove(e, n)
		}
	}
	for _, n := range append(old.reverse, now.reverse...) {
		z.repoint(e, n)
	}
	z.count(e, c, now)
	if IsNameServer(c.Name) {
		z.nameServer(e, c.Service)
	}
}

// count keeps which Services there are and so which namespaces.
func (z *Zone) count(e *edit, c Change, now *held) {
	_, was := z.held[c.Name]
	switch {
	case c.Service != nil && !was:
		z.held[c.Name] = now
		z.used[c.Name.Namespace]++
		if z.used[c.Name.Namespace] == 1 {
			z.namespace(e, c.Name.Namespace)
		}
	case c.Service != nil:
		z.held[c.Name] = now
	case was:
		delete(z.held, c.Name)
		z.used[c.Name.Namespace]--
		if z.used[c.Name.Namespace] == 0 {
			delete(z.used, c.Name.Namespace)
			z.namespace(e, c.Name.Namespace)
		}
	}
}

// namespace puts or takes away the names of a namespace: NS.svc.ZONE, and below
// pod.ZONE when namespaces are known.
func (z *Zone) namespace(e *edit, ns string) {
	exists := z.listed[ns] || z.used[ns] > 0
	for _, label := range []string{"svc", "pod"} {
		name, ok := under(z.table.zone, ns, label)
		switch {
		case !ok || label == "pod" && z.table.podMode == PodsOff:
		case exists:
			z.put(e, Owner{Name: name})
		default:
			z.table.names.remove(e, name)
		}
	}
}

// unpoint takes a Service's PTR records out of reverse names.
func (z *Zone) unpoint(service types.NamespacedName, from []Name) {
	for _, name := range from {
		// A fresh slice: the one before may be shared with nobody, but the order
		// of the rest must stay.
		rest := slices.DeleteFunc(z.hosts[name], func(p pointerTo) bool { return p.service == service })
		if len(rest) == 0 {
			delete(z.hosts, name)
			continue
		}
		z.hosts[name] = rest
	}
}

// repoint writes a reverse name anew. An address that is a Service's own answers
// with that alone, as upstream's server does; a pod may be an endpoint of many.
func (z *Zone) repoint(e *edit, name Name) {
	var own, others []Name
	for _, p := range z.hosts[name] {
		if p.cluster {
			own = append(own, p.host)
		} else {
			others = append(others, p.host)
		}
	}
	if own == nil {
		own = others
	}
	if own == nil {
		z.table.names.remove(e, name)
		return
	}
	slices.Sort(own)
	z.put(e, Owner{Name: name, Hosts: slices.Compact(own)})
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
