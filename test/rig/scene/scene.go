package scene

import (
	"net/netip"

	"portico.dev/portico/test/rig"
)

// Dual is an address pair; Of gives the one of a family.
type Dual struct{ V4, V6 netip.Addr }

// Pair reads an address pair.
func Pair(v4, v6 string) Dual { return Dual{netip.MustParseAddr(v4), netip.MustParseAddr(v6)} }

// Of gives the address of a family.
func (d Dual) Of(v6 bool) netip.Addr {
	if v6 {
		return d.V6
	}
	return d.V4
}

// Both gives both addresses.
func (d Dual) Both() []netip.Addr { return []netip.Addr{d.V4, d.V6} }

func (d Dual) routes() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(d.V4, d.V4.BitLen()), netip.PrefixFrom(d.V6, d.V6.BitLen())}
}

// link gives the addresses with the lengths that their link has.
func (d Dual) link() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(d.V4, 24), netip.PrefixFrom(d.V6, 64)}
}

// Plan is which host and which door has which addresses. Documentation ranges (RFC 5737,
// RFC 3849) stand for the world outside.
type Plan struct {
	Services, Workloads                  []netip.Prefix
	Node, Other, Outside, Router, Far    Dual
	Portico, OtherPortico                Dual // the nodes' own, on portico0
	GuestA, GuestB, GuestC               Dual
	External, Balancer                   Dual // routed to the node by clients outside
	nodePods, otherPods, farNet, gateway []netip.Prefix
}

// Addresses gives the plan.
func Addresses() Plan {
	return Plan{
		Services:  prefixes("10.96.0.0/12", "fd00:10:96::/112"),
		Workloads: prefixes("10.244.0.0/16", "10.245.0.0/16", "fd00:10:244::/56", "fd00:10:245::/64"),
		Node:      Pair("192.0.2.1", "2001:db8::1"), Other: Pair("192.0.2.2", "2001:db8::2"),
		Outside: Pair("192.0.2.9", "2001:db8::9"), Router: Pair("192.0.2.254", "2001:db8::254"), Far: Pair("203.0.113.9", "2001:db8:2::9"),
		Portico: Pair("10.244.0.1", "fd00:10:244::1"), OtherPortico: Pair("10.244.1.1", "fd00:10:244:1::1"),
		GuestA: Pair("10.245.0.2", "fd00:10:245::2"), GuestB: Pair("10.245.0.3", "fd00:10:245::3"), GuestC: Pair("10.245.0.4", "fd00:10:245::4"),
		External: Pair("198.51.100.1", "2001:db8:1::1"), Balancer: Pair("198.51.100.2", "2001:db8:1::2"),
		nodePods: prefixes("10.244.0.0/24", "fd00:10:244::/64"), otherPods: prefixes("10.244.1.0/24", "fd00:10:244:1::/64"),
		farNet: prefixes("203.0.113.0/24", "2001:db8:2::/64"), gateway: prefixes("203.0.113.254/24", "2001:db8:2::254/64"),
	}
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// Scene is the node with guests A and B, another node with guest C, and a client
// outside, all on one LAN: answers that don't go back through the node reach the client
// directly, from an address that it doesn't know.
type Scene struct {
	Plan
	Node, Other      *rig.Node
	A, B, C, Outside *rig.Host
	t                rig.T
	lan              *rig.LAN
}

// New sets the scene.
func New(t rig.T) *Scene {
	t.Helper()
	s := &Scene{Plan: Addresses(), t: t, lan: rig.NewLAN(t)}
	s.Node = rig.NewNode(t, rig.NodeConfig{Name: "node", Pods: s.nodePods, Services: s.Services})
	s.Other = rig.NewNode(t, rig.NodeConfig{Name: "other", Pods: s.otherPods, Services: s.Services})
	s.Outside = rig.NewHost(t, "outside")
	s.lan.Connect(t, s.Node.Host, s.Plan.Node.link()...)
	s.lan.Connect(t, s.Other.Host, s.Plan.Other.link()...)
	s.lan.Connect(t, s.Outside, s.Plan.Outside.link()...)
	s.A = s.Node.Guest(t, "a", s.GuestA.Both()...)
	s.B = s.Node.Guest(t, "b", s.GuestB.Both()...)
	s.C = s.Other.Guest(t, "c", s.GuestC.Both()...)
	s.route(s.Node.Host, s.Plan.Other, append(s.GuestC.routes(), s.otherPods...)...)
	for _, to := range [][]netip.Prefix{s.GuestA.routes(), s.GuestB.routes(), s.nodePods} {
		s.route(s.Other.Host, s.Plan.Node, to...)
	}
	s.route(s.Outside, s.Plan.Node, s.Services...)
	for _, door := range []Dual{s.External, s.Balancer} {
		s.route(s.Outside, s.Plan.Node, door.routes()...)
		s.route(s.Node.Host, s.Plan.Outside, door.routes()...) // as a default route would
	}
	return s
}

// route has a host reach prefixes by a neighbour on its uplink.
func (s *Scene) route(h *rig.Host, via Dual, to ...netip.Prefix) {
	s.t.Helper()
	for _, p := range to {
		if err := h.AddRoute(rig.Route{To: p, Link: rig.Uplink, Via: via.Of(p.Addr().Is6())}); err != nil {
			s.t.Fatalf("scene: %v", err)
		}
	}
}

// FarMTU is the MTU of the router's way to the client behind it.
const FarMTU = 1300

// Beyond adds a client behind a router on the LAN whose way to it has a smaller MTU than
// the LAN. The client doesn't know, and announces segments for a whole Ethernet frame:
// senders learn of it from the router's ICMP errors alone.
func (s *Scene) Beyond() (router, far *rig.Host) {
	s.t.Helper()
	router, far = rig.NewHost(s.t, "router"), rig.NewHost(s.t, "far")
	must := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatalf("scene: %v", err)
		}
	}
	s.lan.Connect(s.t, router, s.Router.link()...)
	must(router.Forward())
	must(rig.Wire(router, "beyond", far, rig.Uplink))
	for _, a := range s.gateway {
		must(router.AddAddr("beyond", a))
	}
	for _, to := range s.farNet {
		must(router.LimitMTU(to, FarMTU))
	}
	for _, a := range s.Far.link() {
		must(far.AddAddr(rig.Uplink, a))
	}
	s.route(router, s.Plan.Node, s.Services...)
	for _, door := range []Dual{s.External, s.Balancer} {
		s.route(router, s.Plan.Node, door.routes()...)
	}
	for _, h := range []*rig.Host{s.Node.Host, s.Other.Host, s.Outside} {
		s.route(h, s.Router, s.farNet...)
	}
	gateway := Dual{s.gateway[0].Addr(), s.gateway[1].Addr()}
	s.route(far, gateway, prefixes("0.0.0.0/0", "::/0")...)
	return router, far
}
