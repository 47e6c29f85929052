package bgp

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/announcing"
)

// announce gives each session its paths.
func (d *decision) announce() {
	paths := make([]map[netip.Prefix]*Path, len(d.plan.Sessions))
	for i := range paths {
		paths[i] = map[netip.Prefix]*Path{}
	}
	for i := range d.in.Services {
		s := &d.in.Services[i]
		for _, a := range s.Addresses {
			if reason := d.announceAddress(s, a, paths); reason != "" {
				d.plan.Left = append(d.plan.Left, Left{s.Service.Name, a.Addr, reason})
			}
		}
	}
	for i := range d.plan.Sessions {
		for _, p := range paths[i] {
			d.plan.Sessions[i].Paths = append(d.plan.Sessions[i].Paths, *p)
		}
		slices.SortFunc(d.plan.Sessions[i].Paths, func(a, b Path) int {
			return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
		})
	}
}

// announceAddress adds an address to the paths of the sessions that are to hear of it, or
// says why there is none.
func (d *decision) announceAddress(s *announcing.Service, a announcing.Address, paths []map[netip.Prefix]*Path) Reason {
	if d.self.Excluded {
		return Excluded
	}
	if d.self.Draining && d.elsewhere(s.Service.Name, a.Addr) {
		return Draining
	}
	reason := NoAdvertisement
	for i := range d.ads {
		ad := &d.ads[i]
		if a.Pool == nil || !ad.selects(s, a.Pool) {
			continue
		}
		if !s.Ready(a.Addr, d.in.Self) {
			return NoEndpoint
		}
		prefix, ok := ad.prefix(a.Addr, a.Pool)
		if !ok {
			d.fault(adKind, ad.Name, aggregationField(a.Is6()), fmt.Sprintf("the pool %s has no whole /%d around %s", a.Pool.Name, prefix.Bits(), a.Addr))
			continue
		}
		if reason == NoAdvertisement {
			reason = NoPeer
		}
		for j := range d.plan.Sessions {
			session := &d.plan.Sessions[j]
			if !ad.isFor(session.Peer) {
				continue
			}
			if p, ok := d.path(session, prefix, paths[j]); ok {
				d.say(ad, session, p, s)
				reason = ""
			}
		}
	}
	return reason
}

// elsewhere tells whether another node announces an address: one that is ready and not
// draining itself, as this node sees it.
func (d *decision) elsewhere(service types.NamespacedName, addr netip.Addr) bool {
	if d.rest == nil {
		d.rest = []*Plan{}
		for _, n := range d.in.Nodes {
			if n.Name == d.in.Self || n.Draining || !n.Ready {
				continue
			}
			in := d.in
			in.Self = n.Name
			plan := Decide(in)
			d.rest = append(d.rest, &plan)
		}
	}
	return slices.ContainsFunc(d.rest, func(p *Plan) bool {
		return !slices.ContainsFunc(p.Left, func(l Left) bool { return l.Service == service && l.Address == addr })
	})
}

func aggregationField(v6 bool) string {
	if v6 {
		return "spec.aggregationLengthV6"
	}
	return "spec.aggregationLength"
}

// path finds or begins the path of a prefix, if the session can carry it.
func (d *decision) path(session *Session, prefix netip.Prefix, paths map[netip.Prefix]*Path) (*Path, bool) {
	if p, ok := paths[prefix]; ok {
		return p, true
	}
	v6 := prefix.Addr().Is6()
	if v6 && !session.IPv6 || !v6 && !session.IPv4 {
		return nil, false
	}
	p := &Path{Prefix: prefix}
	if session.Address.Is6() != v6 {
		if p.NextHop = d.address(v6); !p.NextHop.IsValid() {
			d.fault(peerKind, session.Peer, "spec.dualStackAddressFamily",
				fmt.Sprintf("node %s has no %s address that could be the next hop", d.in.Self, family(v6)))
			return nil, false
		}
	}
	paths[prefix] = p
	return p, true
}

func family(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// say adds what an advertisement says to a path.
func (d *decision) say(ad *advertisement, session *Session, p *Path, s *announcing.Service) {
	if !slices.Contains(p.Services, s.Service.Name) {
		p.Services = append(p.Services, s.Service.Name)
	}
	c := communities{p.Communities, p.Large}
	c.merge(ad.communities)
	p.Communities, p.Large = c.plain, c.large
	pref := ad.Spec.LocalPref
	switch {
	case pref == 0 || !session.Internal() || p.LocalPref == pref:
	case p.LocalPref == 0:
		p.LocalPref = pref
	default:
		d.fault(adKind, ad.Name, "spec.localPref", fmt.Sprintf("%d isn't used for %s: another advertisement says %d", pref, p.Prefix, p.LocalPref))
	}
}
