package dataplane

import "testing"

// DP-14: a load-balancer address stays guarded while its Service lists it among its
// external IPs too.
func TestSourceRangesOfExternalIP(t *testing.T) {
	w := newWorld(t)
	local := onNode(guestA, 8080)
	w.serve(w.a, local)
	web := service{
		name: "web", ip: pair("10.96.0.50", "fd00:10:96::50"), port: 80, balancer: []dual{balancerIP},
		ranges: prefixes("203.0.113.0/24", "2001:db8:9::/48"),
	}
	w.replace(web.with(local).view())
	web.external = []dual{balancerIP}
	w.update(web.with(local).view())
	w.verify()
	each(t, func(t *testing.T, network string, v6 bool) {
		if w.admitted(t, w.outside, network, clientAddr.of(v6), balancerIP.port(v6, 80), false) {
			t.Error("a client that no range has was served")
		}
	})
	web.ranges = prefixes("192.0.2.0/24", "2001:db8::/64")
	w.update(web.with(local).view())
	each(t, func(t *testing.T, network string, v6 bool) {
		if !w.admitted(t, w.outside, network, clientAddr.of(v6), balancerIP.port(v6, 80), true) {
			t.Error("a client of the ranges wasn't served")
		}
	})
}
