package mesh

import (
	"bytes"
	"net/netip"
	"slices"
)

// openTunnels makes the tunnels, with every peer as a remote, also those that are reached
// directly: they may see it otherwise (another netmask) and send by VXLAN.
func (p *planner) openTunnels(nodes []Node) {
	for _, ipv6 := range []bool{false, true} {
		local := family(p.here.Addresses, ipv6)
		if !local.IsValid() || ipv6 && !p.here.IPv6 {
			continue
		}
		t := Tunnel{IPv6: ipv6, Link: TunnelIPv4, Local: local, MAC: MAC(p.here.Name)}
		if ipv6 {
			t.Link = TunnelIPv6
		}
		for _, r := range p.here.PodCIDRs {
			if p.here.IPv6 || !r.Addr().Is6() {
				t.Addrs = append(t.Addrs, own(r))
			}
		}
		for _, n := range nodes {
			at := family(n.Addresses, ipv6)
			if !at.IsValid() || ipv6 && p.share4(n) {
				continue
			}
			remote := Remote{At: at, MAC: MAC(n.Name)}
			for _, r := range p.ranges[n.Name] {
				remote.NextHops = append(remote.NextHops, own(r))
			}
			t.Remotes = append(t.Remotes, remote)
		}
		if len(t.Remotes) > 0 {
			slices.SortFunc(t.Remotes, func(a, b Remote) int {
				if c := a.At.Compare(b.At); c != 0 {
					return c
				}
				return bytes.Compare(a.MAC, b.MAC)
			})
			p.tunnels = append(p.tunnels, t)
		}
	}
}

// share4 tells whether a peer and this node both have IPv4 addresses: then packets travel
// by those, which both ends know without asking.
func (p *planner) share4(n Node) bool {
	return family(p.here.Addresses, false).IsValid() && family(n.Addresses, false).IsValid()
}

// tunnelTo gives the tunnel that has a node as a remote, nil without one.
func (p *planner) tunnelTo(n Node) *Tunnel {
	for i := range p.tunnels {
		if t := &p.tunnels[i]; slices.ContainsFunc(t.Remotes, func(r Remote) bool { return slices.Contains(n.Addresses, r.At) }) {
			return t
		}
	}
	return nil
}

// narrow gives each tunnel the MTU that all peers need which are reached by it, or, as
// long as there is none, all that might send by it.
func (p *planner) narrow() {
	for i := range p.tunnels {
		t := &p.tunnels[i]
		overhead := overhead4
		if t.IPv6 {
			overhead = overhead6
		}
		used := map[netip.Addr]bool{}
		for _, ways := range p.ways {
			for _, w := range ways {
				if w.Link == t.Link {
					used[w.Via] = true
				}
			}
		}
		smallest := 0
		for _, r := range t.Remotes {
			if m := p.here.Hops[r.At].MTU; m > 0 && (len(used) == 0 || used[r.At]) && (smallest == 0 || m < smallest) {
				smallest = m
			}
		}
		if smallest == 0 {
			smallest = ethernet
		}
		t.MTU = max(smallest-overhead, minMTU)
		for _, ways := range p.ways {
			for k := range ways {
				if ways[k].Link == t.Link {
					ways[k].MTU = t.MTU
				}
			}
		}
	}
}

// route adds a route to a peer's range or guest.
func (p *planner) route(node string, to netip.Prefix) {
	ways := p.ways[node]
	if ways == nil {
		return // no Node of that name
	}
	ipv6 := to.Addr().Is6()
	w := &ways[0]
	if ipv6 {
		w = &ways[1]
	}
	if w.Kind == NoWay {
		return
	}
	r := Route{To: to, Via: w.Via, Link: w.Link, Src: own(rangeOf(p.here.PodCIDRs, ipv6))}
	if w.Kind == VXLAN {
		r.Via = own(rangeOf(p.ranges[node], ipv6))
	} else if w.MTU < p.here.Hops[w.Via].LinkMTU {
		r.MTU = w.MTU
	}
	p.routes[to] = r
	w.Routes++
}

// finish puts the plan together, sorted.
func (p *planner) finish(nodes []Node, problems map[string][]string) Plan {
	out := Plan{Tunnels: p.tunnels}
	for _, n := range nodes {
		peer := Peer{Name: n.Name, Addresses: n.Addresses, Problems: problems[n.Name]}
		for _, w := range p.ways[n.Name] {
			peer.Ways = append(peer.Ways, w)
			if w.Kind != NoWay && w.MTU > 0 && (out.MTU == 0 || w.MTU < out.MTU) {
				out.MTU = w.MTU
			}
		}
		out.Peers = append(out.Peers, peer)
	}
	for _, r := range p.routes {
		out.Routes = append(out.Routes, r)
	}
	slices.SortFunc(out.Routes, func(a, b Route) int {
		if c := a.To.Addr().Compare(b.To.Addr()); c != 0 {
			return c
		}
		return a.To.Bits() - b.To.Bits()
	})
	return out
}
