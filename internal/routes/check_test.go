package routes

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"portico.dev/portico/internal/routes/nstest"
	"portico.dev/portico/internal/routes/ruleset"
)

// NET-03: malformed ranges get one sentence with the remedy.
func TestParseRanges(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"10.96.0.0/12", ""},
		{"10.96.0.0/12,fd00:10:96::/112", ""},
		{"fd00:10:96::/112, 10.96.0.0/12", ""},
		{"", "not an address range"},
		{"10.96.0.0", "write it like 10.96.0.0/12"},
		{"10.96.0.0/33", "not an address range"},
		{"10.97.0.0/12", "did you mean 10.96.0.0/12?"},
		{"10.96.0.0/31", "room for 2 addresses only"},
		{"10.96.0.0/16,10.97.0.0/16", "2 IPv4 and 0 IPv6 ranges"},
		{"127.0.0.0/16", "loopback"},
		{"169.254.0.0/16", "link-local"},
		{"224.0.0.0/8", "multicast"},
		{"0.0.0.0/0", "unspecified"},
		{"fe80::/64", "link-local"},
		{"ff02::/64", "multicast"},
		{"::ffff:10.96.0.0/108", "IPv4 range in IPv6 notation"},
	} {
		_, err := ParseRanges("--service-cidr", c.value)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.value, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "--service-cidr")):
			t.Errorf("%q: %v, want %q", c.value, err, c.want)
		}
	}
}

func FuzzParseRanges(f *testing.F) {
	for _, s := range []string{"10.96.0.0/12", "fd00::/112,10.0.0.0/8", ",", "::/0", "1.2.3.4%eth0/8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ranges, err := ParseRanges("--service-cidr", s)
		if err != nil {
			return
		}
		for _, r := range ranges {
			if !r.IsValid() || r != r.Masked() || !r.Contains(own(r)) {
				t.Errorf("%q gave %v", s, r)
			}
		}
	})
}

// NET-03: overlaps among the ranges and with what the host routes.
func TestOverlaps(t *testing.T) {
	c := testConfig(t)
	wide := hostRoute{prefix: netip.MustParsePrefix("10.0.0.0/8"), link: "wg0"}
	for _, k := range []struct {
		name    string
		change  func(*Config)
		taken   []hostRoute
		err     []string
		warning string
	}{
		{name: "nothing"},
		{name: "a neighbour of a range", taken: []hostRoute{{prefix: netip.MustParsePrefix("10.112.0.0/12"), link: "eth1"}}},
		{
			name: "guests inside services", change: func(c *Config) { c.Guests = prefixes("10.100.0.0/16") },
			err: []string{"--guest-cidr 10.100.0.0/16 overlaps --service-cidr 10.96.0.0/12", "--guest-cidr=10.255.0.0/16 is free here"},
		},
		{
			name: "a route inside", taken: []hostRoute{{prefix: netip.MustParsePrefix("10.100.7.0/24"), link: "wg0"}},
			err: []string{"--service-cidr 10.96.0.0/12 overlaps the route 10.100.7.0/24 on wg0", "`ip route del 10.100.7.0/24 dev wg0`", "--service-cidr=10.224.0.0/12 is free"},
		},
		{
			name: "the same", taken: []hostRoute{{prefix: netip.MustParsePrefix("fd00:10:245::/64"), link: "eth1"}},
			err: []string{"--guest-cidr fd00:10:245::/64", "--guest-cidr=fd00:10:100::/64 is free"},
		},
		{
			name: "an address inside", taken: []hostRoute{{prefix: netip.MustParsePrefix("10.245.3.4/32"), link: "eth1", address: true}},
			err: []string{"the address 10.245.3.4/32 on eth1", "`ip addr del 10.245.3.4/32 dev eth1`"},
		},
		{
			name: "inside the host's own network", taken: []hostRoute{{prefix: netip.MustParsePrefix("10.0.0.0/8"), link: "eth0", connected: true}},
			err: []string{"overlaps the route 10.0.0.0/8 on eth0"},
		},
		{name: "inside a VPN's", taken: []hostRoute{wide}, warning: "lies inside the route 10.0.0.0/8 on wg0"},
	} {
		t.Run(k.name, func(t *testing.T) {
			c := c
			if k.change != nil {
				k.change(&c)
			}
			warnings, err := checkOverlaps(c.ranges(), k.taken)
			if (err != nil) != (k.err != nil) {
				t.Fatal(err)
			}
			for _, want := range k.err {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q lacks %q", err, want)
				}
			}
			if (len(warnings) > 0) != (k.warning != "") || k.warning != "" && !strings.Contains(warnings[0], k.warning) {
				t.Errorf("warnings %q", warnings)
			}
		})
	}
}

// NET-03 on a real host: foreign routes and addresses are found, our own are not.
func TestCheckFindsHostRoutes(t *testing.T) {
	nstest.Need(t)
	uplink(t)
	cfg := testConfig(t)
	setup(t, cfg)
	guest(t, "portico-c", "10.245.0.2", "fd00:10:245::2")
	if warnings, err := Check(cfg); err != nil || len(warnings) > 0 {
		t.Errorf("with our own network up: %v, %v", warnings, err)
	}
	vpn := nstest.New(t)
	vpn.Connect(t, "wg0", nil, "w0", nil)
	for _, c := range []struct{ route, want string }{
		{"10.100.0.0/16", "--service-cidr 10.96.0.0/12 overlaps the route 10.100.0.0/16 on wg0"},
		{"fd00:10:244:7::/64", "--cluster-cidr fd00:10:244::/56 overlaps the route fd00:10:244:7::/64 on wg0"},
		{"172.16.0.0/12", ""},
	} {
		if err := nstest.Route(c.route, "", "wg0"); err != nil {
			t.Fatal(err)
		}
		_, err := Check(cfg)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("with a route to %s: %v", c.route, err)
		}
		if out, err := exec.Command("ip", "route", "del", c.route, "dev", "wg0").CombinedOutput(); err != nil {
			t.Fatal(string(out))
		}
	}
}

// NET-03, DP-24: a filter that drops what is forwarded is explained, with commands
// that make the warning go away.
func TestFirewall(t *testing.T) {
	nstest.Need(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(err)
	}
	cfg := testConfig(t)
	for _, c := range []struct {
		name, rules string
		want        []string
	}{
		{"none", "", nil},
		{"open", `table inet f { chain ahead { type filter hook forward priority 0; policy accept; ct state invalid drop; }; }`, nil},
		{"input only", `table inet f { chain in { type filter hook input priority 0; policy drop; }; }`, nil},
		{"policy", `table inet f { chain ahead { type filter hook forward priority 0; policy drop; }; }`, []string{
			"table inet f, chain ahead", `nft insert rule inet f ahead iifname "portico-*" accept; nft insert rule inet f ahead oifname "portico-*" accept`,
		}},
		{"last rule", `table inet f { chain ahead { type filter hook forward priority 0; ct state established accept; counter reject with icmpx admin-prohibited; }; }`, []string{"chain ahead"}},
		{"iptables", `table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }`, []string{"iptables -I FORWARD -s 10.245.0.0/16 -j ACCEPT"}},
		{"ip6tables", `table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }`, []string{"ip6tables -I FORWARD -d fd00:10:245::/64 -j ACCEPT"}},
		{"docker", `table ip filter { chain DOCKER-USER { }; chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }`, []string{"iptables -I DOCKER-USER -s 10.245.0.0/16"}},
		{"ufw", `table ip filter { chain ufw-before-forward { }; chain FORWARD { type filter hook forward priority 0; policy drop; jump ufw-before-forward; }; }`, []string{"ufw route allow from 10.245.0.0/16; ufw route allow to 10.245.0.0/16"}},
		{"firewalld", `table inet firewalld { chain filter_FORWARD { type filter hook forward priority 10; ct state established accept; reject with icmpx admin-prohibited; }; }`, []string{"firewall-cmd --permanent --zone=trusted --add-source=10.245.0.0/16"}},
		{"mended by link", `table inet f { chain ahead { type filter hook forward priority 0; policy drop; iifname "portico-*" accept; oifname "portico-*" accept; }; }`, nil},
		{"mended by address", `table ip filter { chain DOCKER-USER { ip saddr 10.245.0.0/16 accept; }; chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			nft(t, "flush ruleset; "+c.rules)
			t.Cleanup(func() { nft(t, "flush ruleset") })
			warnings, err := Check(cfg)
			if err != nil || (len(warnings) > 0) != (c.want != nil) {
				t.Fatalf("got %q, %v", warnings, err)
			}
			for _, want := range c.want {
				if !strings.Contains(warnings[0], want) {
					t.Errorf("%q lacks %q", warnings[0], want)
				}
			}
		})
	}
}

func nft(t *testing.T, rules string) string {
	t.Helper()
	cmd := exec.Command("nft", "-f", "-")
	if strings.Contains(rules, "list ") {
		cmd = exec.Command("nft", strings.Fields(rules)...)
	} else {
		cmd.Stdin = strings.NewReader(rules)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	return string(out)
}

// Whoever lists his rules sees ours as anybody writes them, with Debian 12's nft,
// also with -j.
func TestListable(t *testing.T) {
	nstest.Need(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(err)
	}
	uplink(t)
	setup(t, testConfig(t))
	got := nft(t, "list table inet "+Table)
	for _, want := range []string{
		`ip saddr 10.245.0.0/16 jump way-out`, `oifname != "lo" masquerade`, `ip6 daddr fd00:10:96::/112 return`,
		`iifname "eth9" meta nfproto ipv4 jump transit`, `ct status ! dnat drop`, `oifname != "portico-*"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	nft(t, "-j list ruleset")
}

// NET-04: the node's primary addresses are found, and followed when they change.
func TestPrimaryAddresses(t *testing.T) {
	nstest.Need(t)
	if a, err := PrimaryAddresses(nil); err == nil {
		t.Errorf("a host without addresses has %v", a)
	}
	lan := nstest.New(t)
	lan.Connect(t, "eth1", []string{"198.51.100.1/24", "fd00:1::1/64"}, "lan0", nil)
	uplink(t) // has the default routes, and came later
	check := func(given []string, want ...string) {
		t.Helper()
		var g []netip.Addr
		for _, s := range given {
			g = append(g, netip.MustParseAddr(s))
		}
		a, err := PrimaryAddresses(g)
		var got []string
		for _, x := range a.All() {
			got = append(got, x.String())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("--node-ip %v gives %v, %v; want %v", given, got, err, want)
		}
	}
	check(nil, "192.0.2.2", "2001:db8::2")
	check([]string{"198.51.100.1"}, "198.51.100.1")
	check([]string{"fd00:1::1", "192.0.2.2"}, "192.0.2.2", "fd00:1::1")
	_, err := PrimaryAddresses([]netip.Addr{netip.MustParseAddr("192.0.2.99")})
	if err == nil || !strings.Contains(err.Error(), "192.0.2.2 (eth9)") {
		t.Errorf("a foreign --node-ip: %v", err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	news := make(chan Addresses, 16)
	done := make(chan error)
	go func() {
		done <- WatchAddresses(ctx, nil, nil, slog.New(slog.NewTextHandler(t.Output(), nil)), func([]netip.Addr) {}, func(a Addresses) { news <- a })
	}()
	next := func(want4, want6 string) {
		t.Helper()
		for {
			select {
			case a := <-news: // there may be states between
				if a.IPv4.String() == want4 && a.IPv6.String() == want6 {
					return
				}
			case <-time.After(patience):
				t.Fatalf("no news of %s and %s", want4, want6)
			}
		}
	}
	next("192.0.2.2", "2001:db8::2")
	eth9, err := netlink.LinkByName("eth9")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{netlink.AddrAdd(eth9, addr("192.0.2.77/24")), netlink.AddrDel(eth9, addr("192.0.2.2/24"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// Without promote_secondaries the other address, a secondary, goes with the first.
	if a, _ := PrimaryAddresses(nil); a.IPv4 != netip.MustParseAddr("192.0.2.77") {
		if err := netlink.AddrAdd(eth9, addr("192.0.2.77/24")); err != nil {
			t.Fatal(err)
		}
		_ = nstest.Route("0.0.0.0/0", "192.0.2.1", "eth9")
	}
	next("192.0.2.77", "2001:db8::2")
	if err := netlink.LinkDel(eth9); err != nil {
		t.Fatal(err)
	}
	next("198.51.100.1", "fd00:1::1")
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUplinkMTU(t *testing.T) {
	nstest.Need(t)
	if mtu, err := UplinkMTU(); err != nil || mtu != 1500 {
		t.Errorf("without an uplink: %d, %v", mtu, err)
	}
	uplink(t)
	eth9, err := netlink.LinkByName("eth9")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetMTU(eth9, 1420); err != nil {
		t.Fatal(err)
	}
	if mtu, err := UplinkMTU(); err != nil || mtu != 1420 {
		t.Errorf("%d, %v", mtu, err)
	}
}

// Teardown takes what is ours and nothing else.
func TestTeardownLeavesForeign(t *testing.T) {
	nstest.Need(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip(err)
	}
	uplink(t)
	nft(t, `table inet portico-alike { chain c { type filter hook input priority 0; }; }`)
	t.Cleanup(func() { nft(t, "delete table inet portico-alike") })
	veth := nstest.New(t)
	veth.Connect(t, "portico-alike", nil, "p0", nil) // no tap
	if err := nstest.Route("203.0.113.0/24", "", "eth9"); err != nil {
		t.Fatal(err)
	}
	before := nft(t, "list ruleset")
	cfg := testConfig(t)
	n, err := Setup(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := Remains(); err != nil || len(rest) < 8 {
		t.Errorf("with the network up there remain %v, %v", rest, err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing
		if _, err := Teardown(cfg.StateDir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := net.InterfaceByName("portico-alike"); err != nil {
		t.Error("a foreign link is gone")
	}
	if after := nft(t, "list ruleset"); after != before {
		t.Errorf("rules were\n%s\nare\n%s", before, after)
	}
	if out, _ := exec.Command("ip", "route", "show", "203.0.113.0/24").CombinedOutput(); len(out) == 0 {
		t.Error("a foreign route is gone")
	}
}

// A foreign link of our bridge's name is said so, and nothing is left of the attempt.
func TestNameTaken(t *testing.T) {
	nstest.Need(t)
	other := nstest.New(t)
	other.Connect(t, Bridge, nil, "p0", nil)
	cfg := testConfig(t)
	if _, err := Setup(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "ip link del portico0") {
		t.Errorf("got %v", err)
	}
	if rest, err := Remains(); err != nil || len(rest) > 0 {
		t.Errorf("there remain %v, %v", rest, err)
	}
}

// Every packet pays for a forward hook: there is one while a link is guarded.
func TestForwardHook(t *testing.T) {
	for _, g := range []guarded{{}, {ipv4: []string{"eth0"}}, {ipv6: []string{"eth0"}}} {
		table := plan(testConfig(t), g)
		has := slices.ContainsFunc(table.Chains, func(c ruleset.Chain) bool { return c.Hook == nftables.ChainHookForward })
		if want := len(g.ipv4)+len(g.ipv6) > 0; has != want {
			t.Errorf("guarding %v: a forward hook: %t", g, has)
		}
	}
}
