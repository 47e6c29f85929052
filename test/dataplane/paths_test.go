package dataplane

import (
	"net/netip"
	"testing"

	"portico.dev/portico/test/rig"
)

// path is one way to a Service: who asks, which address, and whom the backends
// on this node and on the other one must see.
type path struct {
	name                  string
	from                  *rig.Host
	to                    dual
	port                  uint16
	seesLocal, seesRemote dual
}

// DP-01, DP-03, DP-05: every origin reaches cluster IP and node port on backends
// here and on another node; the client's address is kept wherever answers come
// back through this node by themselves.
func TestPaths(t *testing.T) {
	w := newWorld(t)
	local, remote := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, local)
	w.serve(w.c, remote)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}
	w.replace(web.with(local, remote).view())
	w.verify()
	for _, p := range []path{
		{"guest to cluster IP", w.b, web.ip, 80, guestB, guestB},
		{"node to cluster IP", w.node.Host, web.ip, 80, porticoIP, porticoIP},
		{"outside to cluster IP", w.outside, web.ip, 80, clientAddr, nodeAddr},
		{"guest to node port", w.b, nodeAddr, 30080, guestB, guestB},
		{"node to node port", w.node.Host, nodeAddr, 30080, nodeAddr, nodeAddr},
		{"outside to node port", w.outside, nodeAddr, 30080, clientAddr, nodeAddr},
	} {
		t.Run(p.name, func(t *testing.T) {
			each(t, func(t *testing.T, network string, v6 bool) { p.both(t, network, v6, local, remote) })
		})
	}
}

// both asks until both backends have answered, and looks whom they saw.
func (p path) both(t *testing.T, network string, v6 bool, local, remote endpoint) {
	t.Helper()
	seen := map[netip.AddrPort]bool{}
	for range 60 { // missing one of two backends has a chance of 2^-59
		a, err := p.from.Ask(network, p.to.port(v6, p.port))
		if err != nil {
			t.Fatal(err)
		}
		want := p.seesLocal
		if a.Server == remote.addr(v6) {
			want = p.seesRemote
		}
		if keepsClients() && a.Client.Addr() != want.of(v6) {
			t.Fatalf("%s: backend %s saw %s, want %s", p.to.of(v6), a.Server, a.Client.Addr(), want.of(v6))
		}
		if seen[a.Server] = true; seen[local.addr(v6)] && seen[remote.addr(v6)] {
			return
		}
	}
	t.Fatalf("only %v answered", seen)
}

// DP-04: a backend reaches itself through its own Service, by cluster IP and
// node port.
func TestHairpin(t *testing.T) {
	w := newWorld(t)
	self := onNode(guestA, 8080)
	w.serve(w.a, self)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}
	w.replace(web.with(self).view())
	each(t, func(t *testing.T, network string, v6 bool) {
		for _, to := range []netip.AddrPort{web.ip.port(v6, 80), nodeAddr.port(v6, 30080)} {
			a, err := w.a.Ask(network, to)
			if err != nil {
				t.Fatal(err)
			}
			if a.Client.Addr() != porticoIP.of(v6) {
				t.Errorf("%s: the backend saw %s, want %s", to, a.Client.Addr(), porticoIP.of(v6))
			}
		}
	})
}

// DP-04: a host outside the cluster that a hand-written slice names reaches itself
// through a node port; it has a route to the node, and to nothing behind it.
func TestHairpinOutside(t *testing.T) {
	w := newWorld(t)
	self := endpoint{at: clientAddr, port: 8080}
	w.serve(w.outside, self)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}
	w.replace(web.with(self).view())
	each(t, func(t *testing.T, network string, v6 bool) {
		a, err := w.outside.Ask(network, nodeAddr.port(v6, 30080))
		if err != nil {
			t.Fatal(err)
		}
		if a.Client.Addr() != nodeAddr.of(v6) {
			t.Errorf("the backend saw %s, want %s", a.Client.Addr(), nodeAddr.of(v6))
		}
	})
}
