package routes

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"portico.dev/portico/internal/routes/nstest"
	"portico.dev/portico/internal/routes/sysctl"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func testConfig(t *testing.T) Config {
	return Config{
		Services: prefixes("10.96.0.0/12", "fd00:10:96::/112"),
		Cluster:  prefixes("10.244.0.0/16", "fd00:10:244::/56"),
		Guests:   prefixes("10.245.0.0/16", "fd00:10:245::/64"),
		PodCIDRs: prefixes("10.244.3.0/24", "fd00:10:244:3::/64"),
		StateDir: t.TempDir(),
		Log:      slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// patience is how long a state may take on a busy machine.
const patience = 20 * time.Second

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// setup makes a Network that is torn down, with proof, at the end of the test.
func setup(t *testing.T, cfg Config) *Network {
	t.Helper()
	n, err := Setup(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		if _, err := Teardown(cfg.StateDir); err != nil {
			t.Error(err)
		}
	})
	return n
}

// uplink connects an outside host by eth9, with default routes through it.
func uplink(t *testing.T) *nstest.Host {
	t.Helper()
	out := nstest.New(t)
	out.Connect(t, "eth9", []string{"192.0.2.2/24", "2001:db8::2/64"}, "wan0", []string{"192.0.2.1/24", "2001:db8::1/64"})
	for _, r := range [][2]string{{"0.0.0.0/0", "192.0.2.1"}, {"::/0", "2001:db8::1"}} {
		if err := nstest.Route(r[0], r[1], "eth9"); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// guest connects a host by a routed link, as vm/link does for real guests.
func guest(t *testing.T, link, v4, v6 string) *nstest.Host {
	t.Helper()
	g := nstest.New(t)
	g.Connect(t, link, []string{"169.254.1.1/32", "fe80::1/64"}, "g0", []string{v4 + "/32", v6 + "/128"})
	for _, key := range []string{"net/ipv4/conf/" + link + "/forwarding", forwarding6(link), forceForwarding(link)} {
		if sysctl.Exists(key) {
			if err := sysctl.Set(key, "1"); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, dst := range []string{v4 + "/32", v6 + "/128"} {
		if err := nstest.Route(dst, "", link); err != nil {
			t.Fatal(err)
		}
	}
	g.Do(t, func() error {
		if err := nstest.Route("0.0.0.0/0", "169.254.1.1", "g0"); err != nil {
			return err
		}
		return nstest.Route("::/0", "fe80::1", "g0")
	})
	return g
}

func ask(t *testing.T, from *nstest.Host, addr string) (string, error) {
	t.Helper()
	var answer string
	var err error
	from.Do(t, func() error {
		answer, err = nstest.Ask(addr, 8080, patience)
		return nil
	})
	return answer, err
}

// NET-01: guests reach the outside with the node's address, each other and the
// node with their own.
func TestWayOut(t *testing.T) {
	nstest.Need(t)
	for _, global := range []bool{false, true} {
		t.Run(fmt.Sprintf("global=%v", global), func(t *testing.T) {
			cfg := testConfig(t)
			cfg.forceGlobal = global
			out := uplink(t)
			n := setup(t, cfg)
			a := guest(t, "portico-a", "10.245.0.2", "fd00:10:245::2")
			b := guest(t, "portico-b", "10.245.0.3", "fd00:10:245::3")
			out.WhoAmI(t, 8080)
			b.WhoAmI(t, 8080)
			for _, c := range []struct{ to, want string }{
				{"192.0.2.1", "192.0.2.2"},
				{"2001:db8::1", "2001:db8::2"},
				{"10.245.0.3", "10.245.0.2"},
				{"fd00:10:245::3", "fd00:10:245::2"},
			} {
				if got, err := ask(t, a, c.to); err != nil || got != c.want {
					t.Errorf("%s saw %q, %v; want %s", c.to, got, err, c.want)
				}
			}
			l, err := net.Listen("tcp", net.JoinHostPort(n.Own(false).String(), "8080"))
			if err != nil {
				t.Fatal(err)
			}
			nstest.ServeWhoAmI(t, l)
			if got, err := ask(t, a, n.Own(false).String()); err != nil || got != "10.245.0.2" {
				t.Errorf("the node saw %q, %v", got, err)
			}
			// A guest that isn't there is refused here, and its packets leave nowhere.
			if _, err := ask(t, a, "10.245.0.77"); err == nil || !strings.Contains(err.Error(), "no route to host") {
				t.Errorf("a missing guest: %v", err)
			}
			if _, err := ask(t, a, "fd00:10:245::77"); err == nil || strings.Contains(err.Error(), "timeout") {
				t.Errorf("a missing guest: %v", err)
			}
		})
	}
}

// The node's own clients have a route and a source towards Services, before any hook.
func TestSourceTowardsServices(t *testing.T) {
	nstest.Need(t)
	uplink(t)
	n := setup(t, testConfig(t))
	for _, c := range []struct {
		service string
		own     netip.Addr
	}{{"10.96.0.10", n.Own(false)}, {"fd00:10:96::a", n.Own(true)}} {
		conn, err := net.Dial("udp", net.JoinHostPort(c.service, "53"))
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(); got != c.own {
			t.Errorf("towards %s the source is %s, want %s", c.service, got, c.own)
		}
		_ = conn.Close()
	}
}

// NET-02: a host that forwards for guests is no thoroughfare between its other links.
func TestNoThoroughfare(t *testing.T) {
	nstest.Need(t)
	for _, global := range []bool{false, true} {
		t.Run(fmt.Sprintf("global=%v", global), func(t *testing.T) {
			cfg := testConfig(t)
			cfg.forceGlobal = global
			out := uplink(t)
			lan := nstest.New(t)
			lan.Connect(t, "eth8", []string{"198.51.100.1/24", "2001:db8:8::1/64"}, "lan0", []string{"198.51.100.7/24", "2001:db8:8::7/64"})
			lan.Do(t, func() error {
				if err := nstest.Route("0.0.0.0/0", "198.51.100.1", "lan0"); err != nil {
					return err
				}
				return nstest.Route("::/0", "2001:db8:8::1", "lan0")
			})
			out.Do(t, func() error {
				if err := nstest.Route("198.51.100.0/24", "192.0.2.2", "wan0"); err != nil {
					return err
				}
				return nstest.Route("2001:db8:8::/64", "2001:db8::2", "wan0")
			})
			lan.WhoAmI(t, 8080)
			setup(t, cfg)
			for _, addr := range []string{"198.51.100.7", "2001:db8:8::7"} {
				out.Do(t, func() error {
					if got, err := nstest.Ask(addr, 8080, 300*time.Millisecond); err == nil {
						t.Errorf("%s was reached through the node, as %s", addr, got)
					}
					return nil
				})
			}
			// Where somebody switches forwarding on himself, it is his.
			if err := sysctl.Set("net/ipv4/ip_forward", "1"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = sysctl.Set("net/ipv4/ip_forward", "0") })
			nstest.Eventually(t, patience, "forwarded by the owner's will", func() bool {
				var got string
				var err error
				out.Do(t, func() error {
					got, err = nstest.Ask("198.51.100.7", 8080, 2*time.Second) // tried again
					return nil
				})
				return err == nil && got == "192.0.2.1"
			})
		})
	}
}

// DP-19 and the node's part of it: what somebody removes is back at once.
func TestMends(t *testing.T) {
	nstest.Need(t)
	uplink(t)
	cfg := testConfig(t)
	setup(t, cfg)
	br, err := netlink.LinkByName(Bridge)
	if err != nil {
		t.Fatal(err)
	}
	complete := func() bool { return len(state(t)) == len(wanted) }
	if !complete() {
		t.Fatalf("at first: %v", state(t))
	}
	for _, c := range []struct {
		name string
		harm func() error
	}{
		{"down and up", func() error {
			if err := netlink.LinkSetDown(br); err != nil {
				return err
			}
			return netlink.LinkSetUp(br)
		}},
		{"down", func() error { return netlink.LinkSetDown(br) }},
		{"IPv4 address removed", func() error { return netlink.AddrDel(br, addr("10.244.3.1/32")) }},
		{"IPv6 address removed", func() error { return netlink.AddrDel(br, addr("fd00:10:244:3::1/128")) }},
		{"route removed", func() error {
			return netlink.RouteDel(&netlink.Route{Dst: ipNet(prefixes("10.96.0.0/12")[0]), Scope: netlink.SCOPE_LINK})
		}},
		{"IPv6 route removed", func() error { return netlink.RouteDel(&netlink.Route{Dst: ipNet(prefixes("fd00:10:96::/112")[0])}) }},
		{"unreachable route removed", func() error {
			return netlink.RouteDel(&netlink.Route{Dst: ipNet(prefixes("10.245.0.0/16")[0]), Type: 7, Priority: lastResort})
		}},
		{"bridge deleted", func() error { return netlink.LinkDel(br) }},
		{"nft flush ruleset", func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.FlushRuleset()
			return c.Flush()
		}},
		{"forwarding off", func() error { return sysctl.Set(forwarding4("eth9"), "0") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.harm(); err != nil {
				t.Fatal(err)
			}
			took := nstest.Eventually(t, patience, "mended", complete)
			t.Logf("back after %v", took)
		})
	}
}

var wanted = []string{
	"addr 10.244.3.1", "addr fd00:10:244:3::1", "forwarding eth9", "route 10.244.0.0/16", "route 10.245.0.0/16",
	"route 10.96.0.0/12", "route fd00:10:244::/56", "route fd00:10:245::/64", "route fd00:10:96::/112", "rules 11",
}

// state lists those of wanted that the kernel has.
func state(t *testing.T) []string {
	t.Helper()
	var out []string
	if br, err := netlink.LinkByName(Bridge); err == nil {
		addrs, _ := netlink.AddrList(br, netlink.FAMILY_ALL)
		for _, a := range addrs {
			out = append(out, "addr "+a.IP.String())
		}
	}
	routes, err := ourRoutes()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		out = append(out, "route "+r.Dst.String())
	}
	if get(t, forwarding4("eth9")) == "1" {
		out = append(out, "forwarding eth9")
	}
	c, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	rules := 0
	for _, name := range []string{"way-out", "postrouting"} {
		r, _ := c.GetRules(&nftables.Table{Name: Table, Family: nftables.TableFamilyINet}, &nftables.Chain{Name: name})
		rules += len(r)
	}
	out = append(out, fmt.Sprintf("rules %d", rules))
	return slices.DeleteFunc(out, func(s string) bool { return !slices.Contains(wanted, s) })
}

func addr(s string) *netlink.Addr {
	a, err := netlink.ParseAddr(s)
	if err != nil {
		panic(err)
	}
	return a
}

func get(t *testing.T, key string) string {
	t.Helper()
	v, err := sysctl.Get(key)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func del(t *testing.T, link string) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkDel(l); err != nil {
		t.Fatal(err)
	}
}
