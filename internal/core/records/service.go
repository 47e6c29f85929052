package records

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"portico.dev/portico/internal/core/catalog"
)

// OfService gives the names of one Service in the zone and of its addresses in
// the reverse zones, in a fixed order; the name of the Service itself is the
// first. Only reverse names may be there more than once. A headless
// Service without a ready endpoint has none, so its name is NXDOMAIN
// (specification 2.4.1).
func OfService(zone Name, svc *catalog.Service, from []*catalog.Slice) []Owner {
	base, ok := under(zone, svc.Name.Name, svc.Name.Namespace, "svc")
	if !ok {
		return nil
	}
	if svc.Type == corev1.ServiceTypeExternalName {
		return externalName(base, svc.ExternalName)
	}
	s := &service{base: base, svc: svc}
	s.collect(from)
	if svc.Headless {
		s.headless()
	} else {
		s.clusterIP()
	}
	return s.out
}

// externalName is a CNAME. An IP address in its place is no name: nothing is
// published for it, as upstream documents for spec.externalName.
func externalName(base Name, target string) []Owner {
	if _, err := netip.ParseAddr(target); err == nil {
		return nil
	}
	alias, err := ParseName(target)
	if err != nil || alias == Root {
		return nil
	}
	return []Owner{{Name: base, Alias: alias}}
}

// service collects the Owners of one Service.
type service struct {
	base  Name
	svc   *catalog.Service
	hosts []host
	out   []Owner
}

// host is the name of one or more endpoints: a machine with an address of each
// family has two endpoints of the same hostname.
type host struct {
	name  Name // of the endpoint's hostname, or made of its address
	addrs []netip.Addr
	ports []catalog.SlicePort // the named ones
}

// collect gathers the published endpoints by host name, ordered by name and
// address, so that the order of slices never shows. Behind a cluster IP only those with a
// hostname of their own have a name.
func (s *service) collect(from []*catalog.Slice) {
	index := map[Name]int{}
	for _, slice := range from {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !e.Ready && !s.svc.PublishNotReady || !s.svc.Headless && e.Hostname == "" {
				continue
			}
			label := cmp.Or(e.Hostname, dashed(e.Addr))
			name, ok := under(s.base, label)
			if !ok {
				continue
			}
			at, seen := index[name]
			if !seen {
				at = len(s.hosts)
				index[name] = at
				s.hosts = append(s.hosts, host{name: name})
			}
			h := &s.hosts[at]
			h.addrs = append(h.addrs, e.Addr)
			h.ports = append(h.ports, slice.Ports...)
		}
	}
	for i := range s.hosts {
		h := &s.hosts[i]
		h.addrs = distinct(h.addrs, netip.Addr.Compare)
		h.ports = slices.DeleteFunc(h.ports, func(p catalog.SlicePort) bool { return p.Name == "" })
		h.ports = distinct(h.ports, func(a, b catalog.SlicePort) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
		})
	}
	slices.SortFunc(s.hosts, func(a, b host) int { return strings.Compare(string(a.name), string(b.name)) })
}

// clusterIP publishes the cluster IPs (2.3). Endpoints stay behind them, but one
// with a hostname of its own keeps its name: pods ask for it by hostname and
// subdomain, and upstream's server answers whatever the Service's type.
func (s *service) clusterIP() {
	s.add(Owner{Name: s.base, Addrs: s.svc.ClusterIPs})
	for _, h := range s.hosts {
		s.addHost(h)
	}
	var ports portSet
	for _, p := range s.svc.Ports {
		ports.add(p.Name, p.Protocol, SRV{Port: p.Port, Target: s.base, Addrs: s.svc.ClusterIPs})
	}
	s.addPorts(&ports)
	for _, a := range s.svc.ClusterIPs {
		s.add(Owner{Name: ReverseName(a), Hosts: []Name{s.base}})
	}
}

// headless publishes the endpoints themselves (2.4).
func (s *service) headless() {
	if len(s.hosts) == 0 {
		return
	}
	var all []netip.Addr
	var ports portSet
	for _, h := range s.hosts {
		all = append(all, h.addrs...)
		for _, p := range h.ports {
			ports.add(p.Name, p.Protocol, SRV{Port: p.Port, Target: h.name, Addrs: h.addrs})
		}
	}
	s.add(Owner{Name: s.base, Addrs: distinct(all, netip.Addr.Compare)})
	for _, h := range s.hosts {
		s.addHost(h)
	}
	s.addPorts(&ports)
}

func (s *service) add(o Owner) { s.out = append(s.out, o) }

func (s *service) addHost(h host) {
	s.add(Owner{Name: h.name, Addrs: h.addrs})
	for _, a := range h.addrs {
		s.add(Owner{Name: ReverseName(a), Hosts: []Name{h.name}})
	}
}

// portSet collects SRV records by port name and protocol, in the order of their
// first appearance.
type portSet struct {
	keys    []portKey
	records map[portKey][]SRV
}

type portKey struct {
	name  string
	proto catalog.Protocol
}

// add ignores ports without a name: they have no SRV record (2.3.2).
func (p *portSet) add(name string, proto catalog.Protocol, r SRV) {
	if name == "" {
		return
	}
	if p.records == nil {
		p.records = map[portKey][]SRV{}
	}
	key := portKey{name, proto}
	if _, seen := p.records[key]; !seen {
		p.keys = append(p.keys, key)
	}
	p.records[key] = append(p.records[key], r)
}

// addPorts publishes _port._proto names and the _proto names above them. The
// weights share out 100, as upstream's server does; the specification leaves
// them free.
func (s *service) addPorts(ports *portSet) {
	protos := map[catalog.Protocol]bool{}
	for _, key := range ports.keys {
		label := "_" + strings.ToLower(key.proto.String())
		above, ok := under(s.base, label)
		if !ok {
			continue
		}
		name, ok := under(above, "_"+key.name)
		if !ok {
			continue
		}
		if !protos[key.proto] {
			protos[key.proto] = true
			s.add(Owner{Name: above})
		}
		list := ports.records[key]
		for i := range list {
			list[i].Weight = uint16(max(1, 100/len(list)))
		}
		s.add(Owner{Name: name, SRV: list})
	}
}

// distinct sorts and drops what is there twice.
func distinct[T comparable](in []T, compare func(a, b T) int) []T {
	slices.SortFunc(in, compare)
	return slices.Compact(in)
}
