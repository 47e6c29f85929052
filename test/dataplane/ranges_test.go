package dataplane

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"portico.dev/portico/test/rig"
)

// ALLOC-05, DP-01, DP-09: a range of cluster IPs that is added later is like the first:
// its Services are reached, its other addresses are dropped. Removed, it is anybody's
// again. Flows that are there notice nothing of either.
func TestServiceRanges(t *testing.T) {
	w := newWorld(t)
	e := onNode(guestA, 8080)
	w.serve(w.a, e)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}
	late := service{name: "late", ip: pair("10.200.0.20", "fd00:10:200::20"), port: 80, nodePort: 30081}
	unallocated := pair("10.200.0.99", "fd00:10:200::99")
	added := prefixes("10.200.0.0/24", "fd00:10:200::/112")
	for _, p := range added { // what internal/routes does, and the LAN's routers
		if err := w.node.AddRoute(rig.Route{To: p, Link: rig.PorticoLink, Src: porticoIP.of(p.Addr().Is6())}); err != nil {
			t.Fatal(err)
		}
		if err := w.outside.AddRoute(rig.Route{To: p, Link: rig.Uplink, Via: nodeAddr.of(p.Addr().Is6())}); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range []netip.Addr{unallocated.v4, unallocated.v6} {
		if err := w.node.AddAddr(rig.PorticoLink, netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
	}
	w.replace(web.with(e).view())
	var open []net.Conn
	for _, v6 := range []bool{false, true} {
		for _, network := range []string{"tcp", "udp"} {
			c, err := w.b.Dial(network, netip.AddrPort{}, web.ip.port(v6, 80), rig.Patience)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := rig.Exchange(c, rig.Patience); err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
	}
	// dropped says whether an address that no Service has is the cluster's. While it
	// isn't, the node's own stack answers for it.
	dropped := func(want bool) {
		t.Helper()
		each(t, func(t *testing.T, network string, v6 bool) {
			for _, h := range []*rig.Host{w.b, w.outside} {
				how := refused
				if want {
					how = silent
				}
				if ok, err := how(h, network, unallocated.port(v6, 80)); !ok {
					t.Errorf("unallocated address from %s: want it dropped %v, got %v", h.Name, want, err)
				}
			}
		})
		for _, c := range open {
			var err error
			if _, ok := c.(*net.UDPConn); ok {
				_, err = rig.Exchange(c, rig.Patience)
			} else { // what follows the greeting is repeated
				err = rig.Echo(c, rig.Patience)
			}
			if err != nil {
				t.Errorf("an open flow broke: %v", err)
			}
		}
	}
	dropped(false)

	w.plane.SetServiceRanges(slices.Concat(serviceRanges, added))
	w.update(late.with(e).view())
	w.verify()
	dropped(true)
	each(t, func(t *testing.T, network string, v6 bool) {
		for _, h := range []*rig.Host{w.b, w.node.Host, w.outside} {
			if _, err := h.Ask(network, late.ip.port(v6, 80)); err != nil {
				t.Errorf("%s: %v", h.Name, err)
			}
			if ok, err := refused(h, network, late.ip.port(v6, 81)); !ok {
				t.Errorf("unknown port from %s: want a refusal at once, got %v", h.Name, err)
			}
		}
	})

	w.update(late.gone())
	w.plane.SetServiceRanges(serviceRanges)
	w.settled()
	w.verify()
	dropped(false)
}
