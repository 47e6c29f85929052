package dataplane

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/test/rig"
)

// admitted asks from one address of a host and reports whether it was served; a
// client that wasn't must have met silence, or on the node an error of its own
// system call. It waits long only for answers that are wanted.
func (w *world) admitted(t *testing.T, h *rig.Host, network string, from netip.Addr, to netip.AddrPort, want bool) bool {
	t.Helper()
	w.lastPort++
	start, patience := time.Now(), 50*time.Millisecond
	if want {
		patience = rig.Patience
	}
	c, err := h.Dial(network, netip.AddrPortFrom(from, w.lastPort), to, patience)
	if err == nil {
		defer c.Close()
		if _, err = rig.Exchange(c, patience); err == nil {
			return true
		}
	}
	var timeout interface{ Timeout() bool }
	if silent := errors.As(err, &timeout) && timeout.Timeout(); !silent && !errors.Is(err, syscall.EPERM) {
		t.Errorf("from %s at %s to %s: %v after %v, want silence", h.Name, from, to, err, time.Since(start))
	}
	return false
}

// DP-14: source ranges bind load-balancer addresses and nothing else, for clients
// of all origins alike, and change live.
func TestSourceRanges(t *testing.T) {
	w := newWorld(t)
	local, remote := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, local)
	w.serve(w.c, remote)
	crowd := w.crowd(1)
	web := service{
		name: "web", ip: pair("10.96.0.50", "fd00:10:96::50"), port: 80, nodePort: 30050,
		balancer: []dual{balancerIP}, external: []dual{externalIP},
	}.with(local, remote)
	for _, a := range []netip.Addr{balancerIP.v4, balancerIP.v6} { // some load balancers have it so
		if err := w.node.AddAddr("lo", netip.PrefixFrom(a, a.BitLen())); err != nil {
			t.Fatal(err)
		}
	}
	type client struct {
		name string
		host *rig.Host
		at   dual
	}
	outside, stranger := client{"outside", w.outside, clientAddr}, client{"stranger", w.outside, crowd[0]}
	a, b, node, vip := client{"guest a", w.a, guestA}, client{"guest b", w.b, guestB}, client{"node", w.node.Host, nodeAddr}, client{"node as VIP", w.node.Host, balancerIP}
	all := []client{outside, stranger, a, b, node, vip}
	w.replace()
	for _, step := range []struct {
		name   string
		ranges []netip.Prefix
		want   []client
	}{
		{"none", nil, all},
		{"one client outside and one guest", prefixes("192.0.2.9/32", "2001:db8::9/128", "10.245.0.3/32", "fd00:10:245::3/128"), []client{outside, b}},
		{"a shorter prefix with the node", prefixes("192.0.2.0/26", "2001:db8::/120"), []client{outside, node, vip}},
		{"everybody", prefixes("10.0.0.0/8", "0.0.0.0/0", "::/0"), all},
		{"odd lengths", prefixes("10.245.0.2/31", "fd00:10:245::2/127", "192.0.2.96/29", "2001:db8::100:0/113"), []client{stranger, a, b}},
		{"somebody else", prefixes("203.0.113.0/24", "2001:db8:9::/48"), nil},
	} {
		t.Run(step.name, func(t *testing.T) {
			web.ranges = step.ranges
			w.update(web.view())
			w.verify()
			each(t, func(t *testing.T, network string, v6 bool) {
				for _, c := range all {
					want := false
					for _, y := range step.want {
						want = want || y.name == c.name
					}
					if got := w.admitted(t, c.host, network, c.at.of(v6), balancerIP.port(v6, 80), want); got != want {
						t.Errorf("%s is served: %v, want %v", c.name, got, want)
					}
				}
				for _, door := range []netip.AddrPort{web.ip.port(v6, 80), nodeAddr.port(v6, 30050), externalIP.port(v6, 80)} {
					for _, c := range []client{stranger, a} {
						if _, err := c.host.AskFrom(network, netip.AddrPort{}, door); err != nil {
							t.Errorf("%s to %s, which ranges don't bind: %v", c.name, door, err)
						}
					}
				}
			})
		})
	}
	// The node's address moves into the range.
	web.ranges = prefixes("192.0.2.77/32", "2001:db8::77/128")
	w.update(web.view())
	w.plane.SetNodeAddresses([]netip.Addr{addr("192.0.2.77"), addr("2001:db8::77")})
	w.settled()
	w.verify()
	each(t, func(t *testing.T, network string, v6 bool) {
		if !w.admitted(t, vip.host, network, vip.at.of(v6), balancerIP.port(v6, 80), true) {
			t.Error("the node whose new address is in range isn't served at the VIP")
		}
	})
	w.stop()
	w.start()
	w.plane.SetNodeAddresses([]netip.Addr{addr("192.0.2.77"), addr("2001:db8::77")})
	w.replace(web.view())
	w.verify()
	w.update(web.gone())
	w.verify()
}

// DP-06: external and load-balancer addresses serve all origins, without leaving
// the node; an address of mode Proxy is the load balancer's alone. Ports that no
// Service has at a load-balancer address are refused to clients outside.
func TestBalancerAddresses(t *testing.T) {
	w := newWorld(t)
	local, remote := onNode(guestA, 8080), onOther(guestC, 8080)
	w.serve(w.a, local)
	w.serve(w.c, remote)
	web := service{
		name: "web", ip: pair("10.96.0.50", "fd00:10:96::50"), port: 80, nodePort: 30050,
		balancer: []dual{balancerIP}, external: []dual{externalIP},
	}.with(local, remote)
	w.replace(web.view())
	w.verify()
	for _, p := range []path{
		{"guest", w.b, balancerIP, 80, guestB, guestB},
		{"node", w.node.Host, balancerIP, 80, nodeAddr, nodeAddr},
		{"outside", w.outside, balancerIP, 80, clientAddr, nodeAddr},
	} {
		t.Run(p.name, func(t *testing.T) {
			for _, door := range []dual{balancerIP, externalIP} {
				p.to = door
				each(t, func(t *testing.T, network string, v6 bool) { p.both(t, network, v6, local, remote) })
			}
		})
	}
	each(t, func(t *testing.T, network string, v6 bool) {
		if ok, err := refused(w.outside, network, balancerIP.port(v6, 81)); !ok {
			t.Errorf("unknown port of a load-balancer address: want a refusal, got %v", err)
		}
	})
	// Nobody else answers at the address, so whatever answers is short-circuited.
	v := web.view()
	for i := range v.Service.Ingress {
		v.Service.Ingress[i].Proxy = true
	}
	w.update(v)
	w.verify()
	each(t, func(t *testing.T, network string, v6 bool) {
		if w.admitted(t, w.b, network, guestB.of(v6), balancerIP.port(v6, 80), false) {
			t.Error("mode Proxy was short-circuited")
		}
		if _, err := w.b.Ask(network, externalIP.port(v6, 80)); err != nil {
			t.Errorf("external IP: %v", err)
		}
	})
}

// DP-17: labels that give a Service to another proxy take it away live, and back.
func TestForeignService(t *testing.T) {
	w := newWorld(t)
	e := onNode(guestA, 8080)
	w.serve(w.a, e)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}.with(e)
	ours, foreign := web.view(), web.view()
	foreign.Service.Foreign = true
	w.replace()
	for _, v := range []catalog.View{ours, foreign, ours} {
		w.update(v)
		w.verify()
		each(t, func(t *testing.T, network string, v6 bool) {
			_, err := w.outside.AskFrom(network, netip.AddrPort{}, nodeAddr.port(v6, 30080))
			if (err == nil) == v.Service.Foreign {
				t.Errorf("foreign %v: %v", v.Service.Foreign, err)
			}
		})
	}
}
