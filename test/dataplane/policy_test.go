package dataplane

import (
	"net/netip"
	"testing"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/test/rig"
)

// outcome is what a client must meet.
type outcome struct {
	servers []endpoint // one of them answers; none: see the next
	drop    bool       // silence, else an error at once
	sees    dual       // what servers see, zero: any
}

// meets checks an outcome on both protocols and families.
func (w *world) meets(t *testing.T, name string, h *rig.Host, to dual, port uint16, want outcome) {
	t.Helper()
	each(t, func(t *testing.T, network string, v6 bool) {
		at := to.port(v6, port)
		if len(want.servers) == 0 {
			check, word := refused, "a refusal at once"
			if want.drop && h == w.node.Host {
				check, word = failed, "an error of the node's own"
			} else if want.drop {
				check, word = silent, "silence"
			}
			if ok, err := check(h, network, at); !ok {
				t.Errorf("%s: want %s, got %v", name, word, err)
			}
			return
		}
		seen := map[netip.AddrPort]bool{}
		for range 40 { // missing one of two has a chance of 2^-39
			a, err := h.Ask(network, at)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if keepsClients() && want.sees != (dual{}) && a.Client.Addr() != want.sees.of(v6) {
				t.Fatalf("%s: %s saw %s, want %s", name, a.Server, a.Client.Addr(), want.sees.of(v6))
			}
			if seen[a.Server] = true; len(seen) == len(want.servers) && len(seen) > 1 {
				break
			}
		}
		if len(seen) != len(want.servers) {
			t.Fatalf("%s: %v answered, want all of %v", name, seen, want.servers)
		}
		for _, e := range want.servers {
			if !seen[e.addr(v6)] {
				t.Errorf("%s: %s never answered, but %v", name, e.addr(v6), seen)
			}
		}
	})
}

// failed reports whether an exchange failed in any way.
func failed(h *rig.Host, network string, to netip.AddrPort) (bool, error) {
	c, err := h.Dial(network, netip.AddrPort{}, to, soon)
	if err == nil {
		_, err = rig.Exchange(c, soon)
		c.Close()
	}
	return err != nil, err
}

// DP-07: externalTrafficPolicy Local binds clients outside, on node port, external
// and load-balancer address: ready local endpoints, else terminating local ones
// that serve (DP-11), else silence when others have some, else refusal; the
// client's address is kept. Guests and the node use every endpoint.
func TestExternalLocal(t *testing.T) {
	w := newWorld(t)
	here, leaving, there := onNode(guestA, 8080), onNode(guestB, 8080), onOther(guestC, 8080)
	w.serve(w.a, here)
	w.serve(w.b, leaving)
	w.serve(w.c, there)
	web := service{
		name: "web", ip: pair("10.96.0.60", "fd00:10:96::60"), port: 80, nodePort: 30060, externalLocal: true,
		external: []dual{externalIP}, balancer: []dual{balancerIP},
	}
	w.replace()
	for _, step := range []struct {
		name                  string
		set                   []endpoint
		outside, guest, inner outcome
	}{
		{
			"ready ones here and there",
			[]endpoint{here, leaving.in(terminating), there},
			outcome{servers: []endpoint{here}, sees: clientAddr},
			outcome{servers: []endpoint{here, there}, sees: guestB},
			outcome{servers: []endpoint{here, there}},
		},
		{
			"terminating here, ready there",
			[]endpoint{here.in(notReady), leaving.in(terminating), there},
			outcome{servers: []endpoint{leaving}, sees: clientAddr},
			outcome{servers: []endpoint{there}, sees: guestB},
			outcome{servers: []endpoint{there}},
		},
		{
			"none here",
			[]endpoint{here.in(notReady), there},
			outcome{drop: true},
			outcome{servers: []endpoint{there}},
			outcome{servers: []endpoint{there}},
		},
		{"none anywhere", []endpoint{here.in(notReady), there.in(notReady)}, outcome{}, outcome{}, outcome{}},
	} {
		t.Run(step.name, func(t *testing.T) {
			w.update(web.with(step.set...).view())
			w.verify()
			for _, door := range []struct {
				at   dual
				port uint16
			}{{nodeAddr, 30060}, {externalIP, 80}, {balancerIP, 80}} {
				w.meets(t, "outside", w.outside, door.at, door.port, step.outside)
				w.meets(t, "guest", w.b, door.at, door.port, step.guest)
				w.meets(t, "node", w.node.Host, door.at, door.port, step.inner)
			}
			// The cluster IP isn't external.
			w.meets(t, "outside, cluster IP", w.outside, web.ip, 80, outcome{servers: step.inner.servers})
		})
	}
}

// DP-08: internalTrafficPolicy Local binds the cluster IP for everybody, and
// nothing else.
func TestInternalLocal(t *testing.T) {
	w := newWorld(t)
	here, there := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, here)
	w.serve(w.c, there)
	web := service{name: "web", ip: pair("10.96.0.61", "fd00:10:96::61"), port: 80, nodePort: 30061, internalLocal: true}
	w.replace()
	for _, step := range []struct {
		name           string
		set            []endpoint
		internal, port outcome
	}{
		{"here and there", []endpoint{here, there}, outcome{servers: []endpoint{here}}, outcome{servers: []endpoint{here, there}}},
		{"terminating here", []endpoint{here.in(terminating), there}, outcome{servers: []endpoint{here}}, outcome{servers: []endpoint{there}}},
		{"there alone", []endpoint{there}, outcome{drop: true}, outcome{servers: []endpoint{there}}},
		{"nowhere", []endpoint{there.in(notReady)}, outcome{}, outcome{}},
	} {
		t.Run(step.name, func(t *testing.T) {
			w.update(web.with(step.set...).view())
			w.verify()
			for name, h := range map[string]*rig.Host{"outside": w.outside, "guest": w.b, "node": w.node.Host} {
				w.meets(t, name, h, web.ip, 80, step.internal)
				w.meets(t, name+", node port", h, nodeAddr, 30061, step.port)
			}
		})
	}
}

// DP-12: hints keep traffic on the node, else in the zone, and topologyKeys do so
// in their own order.
func TestTopology(t *testing.T) {
	w := newWorld(t)
	here, there := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, here)
	w.serve(w.c, there)
	web := service{name: "web", ip: pair("10.96.0.62", "fd00:10:96::62"), port: 80}.with(here, there)
	node := &catalog.Node{Name: "node", Zone: "z1", Labels: map[string]string{"kubernetes.io/hostname": "node", "topology.kubernetes.io/zone": "z1"}}
	hint := func(node, zone func(at dual) string) catalog.View {
		v := web.view()
		for _, s := range v.Slices {
			for i := range s.Endpoints {
				e := &s.Endpoints[i]
				at := guestC
				if e.Addr == guestA.v4 || e.Addr == guestA.v6 {
					at = guestA
				}
				e.Zone = zone(at)
				if z := zone(at); z != "" {
					e.ZoneHints = []string{z}
				}
				if n := node(at); n != "" {
					e.NodeHints = []string{n}
				}
			}
		}
		return v
	}
	no := func(dual) string { return "" }
	nodeOf := func(at dual) string { return map[bool]string{true: "node", false: "other"}[at == guestA] }
	zoneOf := func(at dual) string { return map[bool]string{true: "z2", false: "z1"}[at == guestA] }
	keys := func(k ...string) catalog.View {
		v := hint(no, zoneOf)
		v.Service.TopologyKeys = k
		return v
	}
	for _, step := range []struct {
		name string
		view catalog.View
		want outcome
	}{
		{"no hints", hint(no, no), outcome{servers: []endpoint{here, there}}},
		{"zone hints", hint(no, zoneOf), outcome{servers: []endpoint{there}}},
		{"node hints before zone hints", hint(nodeOf, zoneOf), outcome{servers: []endpoint{here}}},
		{"keys: node", keys("kubernetes.io/hostname", "*"), outcome{servers: []endpoint{here}}},
		{"keys: any", keys("example.com/rack", "*"), outcome{servers: []endpoint{here, there}}},
		{"keys: nobody", keys("example.com/rack"), outcome{}},
	} {
		t.Run(step.name, func(t *testing.T) {
			w.plane.Replace(node, []catalog.View{step.view})
			w.settled()
			w.verify()
			w.meets(t, "guest", w.b, web.ip, 80, step.want)
		})
	}
}

// DP-24: a foreign firewall's verdict on forwarded packets is honoured, and what it
// allows goes on.
func TestForeignFirewall(t *testing.T) {
	w := newWorld(t)
	e := onNode(guestA, 8080)
	w.serve(w.a, e)
	web := service{name: "web", ip: pair("10.96.0.63", "fd00:10:96::63"), port: 80, nodePort: 30063}.with(e)
	w.replace(web.view())
	w.nft("add table inet firewall")
	w.nft("add chain inet firewall f { type filter hook forward priority 0; policy accept; }")
	w.nft("add rule inet firewall f iifname uplink ct state new drop")
	each(t, func(t *testing.T, network string, v6 bool) {
		if ok, err := silent(w.outside, network, nodeAddr.port(v6, 30063)); !ok {
			t.Errorf("the firewall drops, but: %v", err)
		}
		if _, err := w.b.Ask(network, web.ip.port(v6, 80)); err != nil {
			t.Errorf("a guest, which the firewall lets through: %v", err)
		}
	})
	w.nft("delete table inet firewall")
	each(t, func(t *testing.T, network string, v6 bool) {
		if _, err := w.outside.Ask(network, nodeAddr.port(v6, 30063)); err != nil {
			t.Errorf("without the firewall: %v", err)
		}
	})
}
