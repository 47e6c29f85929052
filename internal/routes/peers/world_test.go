package peers

import (
	"net/netip"
	"testing"

	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/test/rig"
)

// world is three nodes with a guest each:
//
//	   guest a      guest b                      guest c
//	      |            |                            |
//	   node a       node b                       node c
//	192.0.2.1    192.0.2.2                    203.0.113.3
//	      |            |                            |
//	 =====+== LAN =====+== 192.0.2.254 router 203.0.113.254
type world struct {
	t          *testing.T
	a, b, c    *member
	ga, gb, gc *rig.Host
	router     *rig.Host
}

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// underlay says which addresses the nodes have.
type underlay []netip.Addr

var (
	dualStack = [3]underlay{addrs("192.0.2.1", "2001:db8::1"), addrs("192.0.2.2", "2001:db8::2"), addrs("203.0.113.3", "2001:db8:2::3")}
	onlyIPv4  = [3]underlay{addrs("192.0.2.1"), addrs("192.0.2.2"), addrs("203.0.113.3")}
	onlyIPv6  = [3]underlay{addrs("2001:db8::1"), addrs("2001:db8::2"), addrs("2001:db8:2::3")}

	guestA, guestB, guestC = addrs("10.245.0.1", "fd00:10:245::1"), addrs("10.245.0.2", "fd00:10:245::2"), addrs("10.245.0.3", "fd00:10:245::3")
)

// newWorld makes the hosts. The router's way to node c takes packets of up to farMTU.
func newWorld(t *testing.T, at [3]underlay, farMTU int) *world {
	t.Helper()
	w := &world{t: t, router: rig.NewHost(t, "router")}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lan := rig.NewLAN(t)
	lan.Connect(t, w.router, prefixes("192.0.2.254/24", "2001:db8::254/64")...)
	must(w.router.Forward())
	w.a = w.member("a", at[0], "10.244.0.0/24", "fd00:10:244::/64")
	w.b = w.member("b", at[1], "10.244.1.0/24", "fd00:10:244:1::/64")
	w.c = w.member("c", at[2], "10.244.2.0/24", "fd00:10:244:2::/64")
	lan.Connect(t, w.a.Host, at[0].onLinks()...)
	lan.Connect(t, w.b.Host, at[1].onLinks()...)
	must(rig.Wire(w.router, "far", w.c.Host, rig.Uplink))
	for _, p := range prefixes("203.0.113.254/24", "2001:db8:2::254/64") {
		must(w.router.AddAddr("far", p))
	}
	for _, p := range at[2].onLinks() {
		must(w.c.AddAddr(rig.Uplink, p))
	}
	if farMTU > 0 {
		for _, to := range prefixes("203.0.113.0/24", "2001:db8:2::/64") {
			must(w.router.LimitMTU(to, farMTU))
		}
	}
	gates := map[*member][]netip.Addr{w.a: addrs("192.0.2.254", "2001:db8::254"), w.b: addrs("192.0.2.254", "2001:db8::254"), w.c: addrs("203.0.113.254", "2001:db8:2::254")}
	for m, via := range gates {
		for _, a := range m.orders.Addresses {
			to, gate := netip.MustParsePrefix("0.0.0.0/0"), via[0]
			if a.Is6() {
				to, gate = netip.MustParsePrefix("::/0"), via[1]
			}
			must(m.AddRoute(rig.Route{To: to, Link: rig.Uplink, Via: gate}))
		}
	}
	w.ga, w.gb, w.gc = w.a.Guest(t, "ga", guestA...), w.b.Guest(t, "gb", guestB...), w.c.Guest(t, "gc", guestC...)
	for g, at := range map[*rig.Host][]netip.Addr{w.ga: guestA, w.gb: guestB, w.gc: guestC} {
		for _, a := range at {
			g.ServeTCP(t, netip.AddrPortFrom(a, 80))
			g.ServeUDP(t, netip.AddrPortFrom(a, 80))
		}
	}
	return w
}

func (u underlay) onLinks() (out []netip.Prefix) {
	for _, a := range u {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		out = append(out, netip.PrefixFrom(a, bits))
	}
	return out
}

func (w *world) member(name string, at underlay, pods ...string) *member {
	return &member{
		t: w.t, Node: rig.NewNode(w.t, rig.NodeConfig{Name: name, Pods: prefixes(pods...)}),
		orders: orders{
			Name: name, PodCIDRs: prefixes(pods...), Addresses: at, Mode: mesh.Auto,
			Cluster: prefixes("10.244.0.0/16", "fd00:10:244::/56"), Guests: prefixes("10.245.0.0/16", "fd00:10:245::/64"),
		},
	}
}

// node is what the API holds of a member.
func (m *member) node() mesh.Node {
	return mesh.Node{Name: m.orders.Name, Addresses: m.orders.Addresses, PodCIDRs: m.orders.PodCIDRs}
}

func (w *world) nodes() []mesh.Node { return []mesh.Node{w.a.node(), w.b.node(), w.c.node()} }

// pods are the guests' of all nodes; each node is told of those of the others too.
func (w *world) pods() []mesh.Guest {
	return []mesh.Guest{{Node: "a", Addrs: guestA}, {Node: "b", Addrs: guestB}, {Node: "c", Addrs: guestC}}
}

func (w *world) start() {
	w.t.Helper()
	for _, m := range []*member{w.a, w.b, w.c} {
		m.start(w.nodes(), w.pods())
	}
}
