package election

import (
	"net/netip"
	"slices"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/metallb"
)

// Member is a living node that can announce.
type Member struct {
	Name    string
	Links   []string // those it can announce on
	Leaving bool     // its agent is about to end
}

// Contest is one address and who may hold it.
type Contest struct {
	Address  netip.Addr
	Services []*announcing.Service // that have it, by name
	// Candidates and Reserve are as in Ballot.
	Candidates, Reserve []string
	// LeftOut says of every other node why it is neither.
	LeftOut map[string]string
	// Links are where the node that decides would announce it.
	Links []string
}

// The reasons to leave a node out.
const (
	notHeard  = "not heard from"
	leaving   = "its agent is stopping"
	excluded  = "excluded by the label node.kubernetes.io/exclude-from-external-load-balancers"
	notChosen = "no L2Advertisement for the address selects it"
	noLink    = "it has none of the interfaces of the L2Advertisement"
	noBackend = "no ready endpoint of the Service is on it (externalTrafficPolicy Local)"
)

// Contests gives every address that an L2Advertisement announces, in the order of
// addresses. members are the living nodes by name, the deciding one among them.
func Contests(in *announcing.Input, members map[string]Member) []Contest {
	adverts := newAdverts(in)
	byAddr := map[netip.Addr]*Contest{}
	for i := range in.Services {
		s := &in.Services[i]
		for _, a := range s.Addresses {
			if !adverts.any(s, a.Pool) {
				continue
			}
			c := byAddr[a.Addr]
			if c == nil {
				c = &Contest{Address: a.Addr}
				byAddr[a.Addr] = c
			}
			c.Services = append(c.Services, s)
		}
	}
	out := make([]Contest, 0, len(byAddr))
	for _, c := range byAddr {
		adverts.fill(c, members)
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Contest) int { return a.Address.Compare(b.Address) })
	return out
}

// adverts are the L2Advertisements, with the nodes that each selects.
type adverts struct {
	in    *announcing.Input
	nodes []map[string]bool // by index of the advertisement
}

func newAdverts(in *announcing.Input) *adverts {
	a := &adverts{in: in}
	for _, ad := range in.Config.L2Advertisements {
		nodes := map[string]bool{}
		for i := range in.Nodes {
			nodes[in.Nodes[i].Name] = announcing.Matches(ad.Spec.NodeSelectors, in.Nodes[i].Labels)
		}
		a.nodes = append(a.nodes, nodes)
	}
	return a
}

func announces(ad *metallb.L2Advertisement, s *announcing.Service, pool *metallb.IPAddressPool) bool {
	return announcing.ForPool(ad.Spec.IPAddressPools, ad.Spec.IPAddressPoolSelectors, pool) && announcing.Matches(ad.Spec.ServiceSelectors, s.Labels)
}

func (a *adverts) any(s *announcing.Service, pool *metallb.IPAddressPool) bool {
	return slices.ContainsFunc(a.in.Config.L2Advertisements, func(ad *metallb.L2Advertisement) bool { return announces(ad, s, pool) })
}

// links gives where a node may announce an address of s: with no advertisement for it
// chosen is false.
func (a *adverts) links(s *announcing.Service, pool *metallb.IPAddressPool, node string, has []string) (links []string, chosen bool) {
	for i, ad := range a.in.Config.L2Advertisements {
		if !a.nodes[i][node] || !announces(ad, s, pool) {
			continue
		}
		chosen = true
		for _, l := range has {
			if (len(ad.Spec.Interfaces) == 0 || slices.Contains(ad.Spec.Interfaces, l)) && !slices.Contains(links, l) {
				links = append(links, l)
			}
		}
	}
	return links, chosen
}

// fill finds the candidates of an address. Where Services share it a node should serve
// them all; where none does, one that serves some is better than nobody.
func (a *adverts) fill(c *Contest, members map[string]Member) {
	c.LeftOut = map[string]string{}
	most := 1
	serves := map[string]int{}
	for i := range a.in.Nodes {
		n := &a.in.Nodes[i]
		links, count, why := a.judge(c, n, members)
		if n.Name == a.in.Self {
			c.Links = links
		}
		if count == 0 {
			c.LeftOut[n.Name] = why
			continue
		}
		serves[n.Name] = count
		most = max(most, count)
	}
	for i := range a.in.Nodes {
		switch n := &a.in.Nodes[i]; {
		case serves[n.Name] == 0:
		case serves[n.Name] < most:
			c.LeftOut[n.Name] = noBackend
		case n.Draining:
			c.Reserve = append(c.Reserve, n.Name)
		default:
			c.Candidates = append(c.Candidates, n.Name)
		}
	}
}

// judge gives where a node may announce an address, and for how many of its Services it
// may; with none, why.
func (a *adverts) judge(c *Contest, n *announcing.Node, members map[string]Member) (links []string, count int, why string) {
	m, lives := members[n.Name]
	chosen := false
	for _, s := range c.Services {
		l, ok := a.links(s, poolOf(s, c.Address), n.Name, m.Links)
		chosen = chosen || ok
		for _, name := range l {
			if !slices.Contains(links, name) {
				links = append(links, name)
			}
		}
		if len(l) > 0 && s.Ready(c.Address, n.Name) {
			count++
		}
	}
	switch {
	case n.Excluded:
		return links, 0, excluded
	case !chosen:
		return links, 0, notChosen
	case !lives:
		return links, 0, notHeard
	case m.Leaving:
		return links, 0, leaving
	case len(links) == 0:
		return links, 0, noLink
	case count == 0:
		return links, 0, noBackend
	}
	return links, count, ""
}

func poolOf(s *announcing.Service, addr netip.Addr) *metallb.IPAddressPool {
	for _, a := range s.Addresses {
		if a.Addr == addr {
			return a.Pool
		}
	}
	return nil
}
