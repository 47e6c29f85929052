package mesh

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// The tunnels' links, by the family of the nodes' addresses that packets travel between.
const (
	TunnelIPv4 = "portico0-vxlan"
	TunnelIPv6 = "portico0-vxlan6"
)

const (
	// What VXLAN adds to a packet: its own header, UDP's, IP's and the inner
	// Ethernet header (RFC 7348 section 5).
	overhead4, overhead6 = 8 + 8 + 20 + 14, 8 + 8 + 40 + 14
	// minMTU is what IPv6 needs (RFC 8200 section 5). A tunnel over a narrower link
	// gets it too: the packets around it are fragmented.
	minMTU = 1280
	// ethernet is the MTU of a tunnel whose underlay is unknown (RFC 894).
	ethernet = 1500
)

// Mode says who chooses the ways.
type Mode string

// The modes. In AlwaysVXLAN nothing is routed directly, for networks that look like one
// link and drop what isn't to a host's own address, as those of many clouds do.
const (
	Auto        Mode = "auto"
	AlwaysVXLAN Mode = "vxlan"
)

// Here is this node and its host.
type Here struct {
	Node
	Cluster, Guests []netip.Prefix // the cluster's ranges: nothing else is ever routed
	IPv6            bool           // this host has it
	Mode            Mode
	Hops            map[netip.Addr]Hop // to the peers' addresses
}

// Hop is how this host reaches an address of another node.
type Hop struct {
	Link    string // by which packets leave; "": there is no route
	OnLink  bool   // the address itself is on the link, no router between
	MTU     int    // of the way there as far as this host knows it
	LinkMTU int
}

// Plan is what this node needs to reach the others.
type Plan struct {
	Peers   []Peer   // by name
	Routes  []Route  // by destination; each destination once
	Tunnels []Tunnel // IPv4's first
	// MTU is the largest packet that every way in use takes; 0 without peers.
	MTU int
}

// Kind of a way.
type Kind string

// The ways to a peer.
const (
	Direct Kind = "direct"
	VXLAN  Kind = "vxlan"
	NoWay  Kind = "none"
)

// Peer is another node, with the ways to its ranges.
type Peer struct {
	Name      string
	Addresses []netip.Addr
	Ways      []Way
	Problems  []string // what of it is not routed, and why
}

// Way is how the ranges of one family of a peer are reached.
type Way struct {
	IPv6   bool
	Kind   Kind
	Why    string
	Via    netip.Addr // the peer's address that packets travel to
	Link   string
	MTU    int
	Routes int // over this way
}

// Family names the family of the ranges.
func (w Way) Family() string {
	if w.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}

// Route is a route of this node.
type Route struct {
	To   netip.Prefix
	Via  netip.Addr // on Link, without a look whether it is
	Link string
	Src  netip.Addr // of what this node sends itself; may be invalid
	MTU  int        // 0: the link's
}

// Tunnel is a VXLAN link of this node.
type Tunnel struct {
	IPv6    bool // of the addresses that packets travel between
	Link    string
	Local   netip.Addr
	MAC     net.HardwareAddr
	MTU     int
	Addrs   []netip.Addr // on the link: masquerade takes its address from there
	Remotes []Remote     // by address
}

// Remote is a peer at the other end of a tunnel.
type Remote struct {
	At       netip.Addr
	MAC      net.HardwareAddr
	NextHops []netip.Addr // of routes to it
}

// Make plans the routes to all nodes but this one.
func Make(here Here, nodes []Node, guests []Guest) Plan {
	nodes = slices.DeleteFunc(slices.Clone(nodes), func(n Node) bool { return n.Name == here.Name })
	p := planner{here: here, ways: map[string]*[2]Way{}, routes: map[netip.Prefix]Route{}}
	problems := p.takeRanges(nodes)
	for i := range nodes {
		if err := p.checkAddresses(&nodes[i]); err != nil {
			problems[nodes[i].Name] = append(problems[nodes[i].Name], err.Error())
		}
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	p.openTunnels(nodes)
	for _, n := range nodes {
		p.ways[n.Name] = &[2]Way{p.way(n, false), p.way(n, true)}
	}
	p.narrow()
	for _, n := range nodes {
		for _, r := range p.ranges[n.Name] {
			p.route(n.Name, r)
		}
	}
	for a, node := range p.homes(guests) {
		p.route(node, netip.PrefixFrom(a, a.BitLen()))
	}
	return p.finish(nodes, problems)
}

// planner is one run of Make.
type planner struct {
	here    Here
	ranges  map[string][]netip.Prefix // of the peers, those that they may have
	tunnels []Tunnel
	ways    map[string]*[2]Way // by peer, IPv4's first
	routes  map[netip.Prefix]Route
}

// takeRanges gives each peer its pod ranges: of the cluster's, and nobody else's. The
// older of two nodes has what both claim.
func (p *planner) takeRanges(nodes []Node) (problems map[string][]string) {
	p.ranges, problems = map[string][]netip.Prefix{}, map[string][]string{}
	older := slices.SortedFunc(slices.Values(nodes), func(a, b Node) int {
		if c := a.Created.Compare(b.Created); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	taken := map[netip.Prefix]string{}
	for _, r := range p.here.PodCIDRs {
		taken[r] = "this node"
	}
	for _, n := range older {
		for _, r := range n.PodCIDRs {
			if err := p.mayHave(r, taken); err != nil {
				problems[n.Name] = append(problems[n.Name], err.Error())
				continue
			}
			taken[r] = "node " + n.Name
			if !r.Addr().Is6() || p.here.IPv6 {
				p.ranges[n.Name] = append(p.ranges[n.Name], r)
			}
		}
	}
	return problems
}

func (p *planner) mayHave(r netip.Prefix, taken map[netip.Prefix]string) error {
	if c := rangeOf(p.here.Cluster, r.Addr().Is6()); !c.IsValid() || !c.Contains(r.Addr()) || r.Bits() < c.Bits() {
		return fmt.Errorf("its pod range %s is not inside this node's --cluster-cidr %v and is not routed", r, p.here.Cluster)
	}
	for t, who := range taken {
		if t.Overlaps(r) {
			return fmt.Errorf("its pod range %s overlaps %s of %s and is not routed; delete one of the two Nodes, it gets another", r, t, who)
		}
	}
	return nil
}

// checkAddresses takes away what can't be an address of another node. A packet around one
// for the cluster's ranges would need another around itself.
func (p *planner) checkAddresses(n *Node) (err error) {
	n.Addresses = slices.DeleteFunc(slices.Clone(n.Addresses), func(a netip.Addr) bool {
		switch {
		case slices.Contains(p.here.Addresses, a):
			err = fmt.Errorf("its address %s is this node's own; delete the Node if it is an old one", a)
		case slices.ContainsFunc(slices.Concat(p.here.Cluster, p.here.Guests), func(r netip.Prefix) bool { return r.Contains(a) }):
			err = fmt.Errorf("its address %s lies in a range of the cluster's own; start it with another --node-ip", a)
		default:
			return false
		}
		return true
	})
	return err
}

// homes gives the node of each guest's address.
func (p *planner) homes(guests []Guest) map[netip.Addr]string {
	best := map[netip.Addr]*Guest{}
	for i := range guests {
		g := &guests[i]
		if g.Node == p.here.Name {
			continue
		}
		for _, a := range g.Addrs {
			if p.free(a) && (best[a] == nil || g.before(best[a])) {
				best[a] = g
			}
		}
	}
	out := make(map[netip.Addr]string, len(best))
	for a, g := range best {
		out[a] = g.Node
	}
	return out
}

// free tells whether an address may be a guest's: of the cluster's ranges, and in no
// node's pod range. A node that says otherwise can't draw others' packets.
func (p *planner) free(a netip.Addr) bool {
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(r netip.Prefix) bool { return r.Contains(a) })
	}
	switch {
	case a.Is6() && !p.here.IPv6:
		return false
	case in(p.here.Guests):
		return true
	case !in(p.here.Cluster) || in(p.here.PodCIDRs):
		return false
	}
	for _, ranges := range p.ranges {
		if in(ranges) {
			return false
		}
	}
	return true
}

// before tells which of two pods with one address has it.
func (g *Guest) before(o *Guest) bool {
	switch {
	case g.Leaving != o.Leaving:
		return o.Leaving
	case !g.Since.Equal(o.Since):
		return g.Since.After(o.Since)
	}
	return g.Name.String() < o.Name.String()
}

// way chooses how one family of a node's ranges is reached.
func (p *planner) way(n Node, ipv6 bool) Way {
	w := Way{IPv6: ipv6, Kind: NoWay}
	if ipv6 && !p.here.IPv6 {
		w.Why = "IPv6 is switched off on this host"
		return w
	}
	if !rangeOf(p.ranges[n.Name], ipv6).IsValid() {
		w.Why = "it has no " + w.Family() + " pod range"
		return w
	}
	at := family(n.Addresses, ipv6)
	hop := p.here.Hops[at]
	if hop.OnLink && p.here.Mode != AlwaysVXLAN {
		w.Kind, w.Why = Direct, fmt.Sprintf("%s is on %s", at, hop.Link)
		w.Via, w.Link, w.MTU = at, hop.Link, hop.MTU
		return w
	}
	t := p.tunnelTo(n)
	if t == nil {
		w.Why = "it and this node have no address of one family"
		return w
	}
	w.Kind, w.Link, w.Via = VXLAN, t.Link, family(n.Addresses, t.IPv6)
	switch {
	case hop.OnLink:
		w.Why = "VXLAN was asked for"
	case !at.IsValid():
		w.Why = "it has no " + w.Family() + " address"
	case hop.Link == "":
		w.Why = fmt.Sprintf("%s has no route", at)
	default:
		w.Why = fmt.Sprintf("%s is behind a router on %s", at, hop.Link)
	}
	return w
}
