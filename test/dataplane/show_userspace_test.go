package dataplane

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/userspace"
)

// DP-21: what leads packets to the proxy is read back from the kernel, by another process if
// need be, and damage is told.
func TestShowUserspace(t *testing.T) {
	w := newWorld(t)
	s := service{
		name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, balancer: []dual{balancerIP}, ranges: prefixes("192.0.2.0/24", "2001:db8::/64"),
		endpoints: []endpoint{onNode(guestA, 8080), onOther(guestC, 8080)},
	}
	none := service{name: "none", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 80}
	w.serve(w.a, s.endpoints[0])
	w.replace(s.view(), none.view())
	var r *userspace.Reader
	if err := w.node.Do(func() (err error) {
		r, err = userspace.OpenReader()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	verify := func() (words []string) {
		t.Helper()
		if err := w.node.Do(func() (err error) { // sockets are read from where it is called
			words, err = r.Verify(t.Context(), w.site(), w.plane.State())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return words
	}
	if words := verify(); len(words) > 0 {
		t.Errorf("all is as it should be, and told is %q", words)
	}
	c, err := r.Contents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	find := func(addr netip.Addr, port uint16) *dataplane.Frontend {
		t.Helper()
		i := slices.IndexFunc(c.Frontends, func(f dataplane.Frontend) bool { return f.Addr == addr && f.Port == port })
		if i < 0 {
			t.Fatalf("%s port %d isn't shown", addr, port)
		}
		return &c.Frontends[i]
	}
	if f := find(s.ip.v4, 80); f.Kind != routing.ClusterIP || !slices.Contains(w.node.PorticoAddrs, f.Inside.Proxy.Addr()) || f.Guarded {
		t.Errorf("cluster IP: %+v", f)
	}
	if f := find(balancerIP.v6, 80); f.Kind != routing.LoadBalancerIP || !f.Guarded || !slices.Contains(f.Admitted, netip.MustParsePrefix("2001:db8::/64")) {
		t.Errorf("load-balancer address: %+v", f)
	}
	if f := find(netip.IPv4Unspecified(), 30080); f.Kind != routing.NodePort || !f.Outside.Proxy.IsValid() {
		t.Errorf("node port: %+v", f)
	}
	if f := find(none.ip.v4, 80); f.Outside.Proxy.IsValid() || f.Outside.Action != routing.Reject {
		t.Errorf("without endpoints: %+v", f)
	}
	if len(c.Tables) != 2 || !slices.Contains(c.NodeAddresses, nodeAddr.v4) || !slices.Contains(c.Services, serviceRanges[0]) || !slices.Contains(c.Workloads, workloadRanges[0]) {
		t.Errorf("contents: %+v", c)
	}
	if _, err := w.outside.Ask("tcp", nodeAddr.port(false, 30080)); err != nil {
		t.Error(err)
	}
	if n, err := r.Connections(t.Context(), c); err != nil || n[routing.Key{Addr: netip.IPv4Unspecified(), Protocol: 6, Port: 30080}] == 0 {
		t.Errorf("connections: %v, %v", n, err)
	}

	// With the program gone its ports lead nowhere, and then a rule is gone too.
	state := w.plane.State()
	w.stop()
	err = w.node.Do(func() error {
		words, err := r.Verify(t.Context(), w.site(), state)
		if err != nil || !slices.ContainsFunc(words, func(s string) bool {
			return strings.Contains(s, "TCP *:30080 of default/web, clients outside: led to") && strings.Contains(s, "where nobody listens")
		}) {
			t.Errorf("without the program: %q, %v", words, err)
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.DelTable(&nftables.Table{Name: userspace.Table, Family: nftables.TableFamilyIPv6})
		if err := conn.Flush(); err != nil {
			return err
		}
		words, err = r.Verify(t.Context(), w.site(), state)
		if err != nil || !slices.Contains(words, "the table ip6 "+userspace.Table+" is missing") {
			t.Errorf("without a table: %q, %v", words, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
