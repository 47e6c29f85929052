package routes

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"

	"portico.dev/portico/internal/routes/nstest"
)

// towards gives the source that the host would take to an address, by which a route to
// Services is told from all others.
func towards(t *testing.T, to string) netip.Addr {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(to, "53"))
	if err != nil {
		return netip.Addr{}
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// stays counts the rules that let packets inside the cluster keep their source.
func stays(t *testing.T) int {
	t.Helper()
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	rules, _ := c.GetRules(&nftables.Table{Name: Table, Family: nftables.TableFamilyINet}, &nftables.Chain{Name: "way-out"})
	return len(rules) - 1 // the last masquerades
}

// ALLOC-05, DP-01: ranges of cluster IPs come and go while the node runs; what a
// previous run knew stays until the API has said what is there.
func TestServicesFollow(t *testing.T) {
	nstest.Need(t)
	uplink(t)
	cfg := testConfig(t)
	n := setup(t, cfg)
	more := append(slices.Clone(cfg.Services), prefixes("10.200.0.0/24", "fd00:10:200::/112")...)
	atFirst := stays(t)
	follow := func(n *Network, want []netip.Prefix, also bool) {
		t.Helper()
		if got := n.SetServices(want); !slices.Equal(got, want) {
			t.Errorf("of %v it takes %v", want, got)
		}
		rules := atFirst
		if also {
			rules += 2
		}
		nstest.Eventually(t, patience, "routes and rules follow", func() bool {
			return (towards(t, "10.200.0.9") == n.Own(false)) == also && (towards(t, "fd00:10:200::9") == n.Own(true)) == also && stays(t) == rules
		})
		if towards(t, "10.96.0.9") != n.Own(false) || towards(t, "fd00:10:96::9") != n.Own(true) {
			t.Error("the first ranges suffered")
		}
	}
	follow(n, more, true)
	follow(n, cfg.Services, false)
	follow(n, more, true)

	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = setup(t, cfg)
	if towards(t, "10.200.0.9") != n.Own(false) || towards(t, "fd00:10:200::9") != n.Own(true) {
		t.Error("the next run took the routes to added ranges away before it could know")
	}
	follow(n, cfg.Services, false)
}

// A range that the host itself uses is left out: the host goes on reaching it.
func TestServicesOfTheHost(t *testing.T) {
	nstest.Need(t)
	out := uplink(t)
	out.WhoAmI(t, 8080)
	cfg := testConfig(t)
	n := setup(t, cfg)
	for _, bad := range []string{"192.0.2.0/24", "192.0.2.0/30", "2001:db8::/112", "10.244.9.0/24", "10.245.0.0/24", "127.1.0.0/24"} {
		if got := n.SetServices(append(slices.Clone(cfg.Services), prefixes(bad)...)); !slices.Equal(got, cfg.Services) {
			t.Errorf("with %s it takes %v", bad, got)
		}
	}
	more := append(slices.Clone(cfg.Services), prefixes("10.200.0.0/24")...)
	n.SetServices(more)
	nstest.Eventually(t, patience, "the good range has its route", func() bool { return towards(t, "10.200.0.9") == n.Own(false) })
	for _, host := range []string{"192.0.2.1", "2001:db8::1"} {
		if _, err := nstest.Ask(host, 8080, patience); err != nil {
			t.Errorf("the host reaches its neighbour no more: %v", err)
		}
	}
	// What comes later has come with the range in sight.
	if err := nstest.Route("10.200.0.128/25", "192.0.2.1", "eth9"); err != nil {
		t.Fatal(err)
	}
	if got := n.SetServices(append(more, prefixes("fd00:10:200::/112")...)); !slices.Contains(got, more[2]) {
		t.Errorf("a range in use was left out: %v", got)
	}
}
