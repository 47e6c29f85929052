package link

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"

	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/nstest"
	"portico.dev/portico/internal/routes/sysctl"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// VM-04, NET-01: a guest gets its addresses and reaches the node and other guests,
// by both families; a guest that goes leaves nothing.
func TestGuest(t *testing.T) {
	m := node(t)
	listenOnNode(t)
	before := kernel(t)
	a, b := boot(t, m, numbered(11)), boot(t, m, numbered(12))
	a.configure(t)
	b.configure(t)
	b.WhoAmI(t, 8080)
	a.reaches(t, append(nodeAddrs, "10.245.0.12", "fd00:10:245::12")...)
	// The other way: the node's source is its own address of the pods' range.
	for i, to := range []string{"10.245.0.12", "fd00:10:245::12"} {
		if got, err := nstest.Ask(to, 8080, patience); err != nil || got != nodeAddrs[i] {
			t.Errorf("the node to %s: seen as %q, %v", to, got, err)
		}
	}
	if mtu := a.run(t, "ip", "-6", "route", "show", "default"); !strings.Contains(mtu, "mtu 1450") && !strings.Contains(a.run(t, "cat", "/proc/sys/net/ipv6/conf/"+a.nic+"/mtu"), "1450") {
		t.Errorf("the MTU didn't arrive: %s", mtu)
	}
	// Neighbour discovery says "router", or the guest would drop its default route.
	a.run(t, "ip", "-6", "neigh", "flush", "dev", a.nic)
	a.reaches(t, nodeAddrs[1])
	if n := a.run(t, "ip", "-6", "neigh", "show", "dev", a.nic); !strings.Contains(n, "fe80::1 lladdr "+GatewayMAC.String()+" router") {
		t.Errorf("the gateway is no router: %s", n)
	}
	if ids, err := m.List(); err != nil || len(ids) != 2 || ids[0] != a.guest.ID || ids[1] != b.guest.ID {
		t.Errorf("listed %v, %v", ids, err)
	}
	if _, err := m.Attach(t.Context(), a.guest); !errors.Is(err, ErrInUse) {
		t.Errorf("a second Attach of a running guest: %v", err)
	}
	a.reaches(t, nodeAddrs[0]) // and that did no harm
	for _, vm := range []*machine{a, b} {
		vm.off()
		for range 2 { // twice is no error
			if err := m.Detach(t.Context(), vm.guest.ID); err != nil {
				t.Error(err)
			}
		}
	}
	if after := kernel(t); after != before {
		t.Errorf("the kernel has other things than before: %s", differs(before, after))
	}
}

// A guest that runs hears of a smaller MTU at once by router advertisement, and of it by
// DHCPv4 when it asks again; its tap has it too, and keeps it.
func TestSetMTU(t *testing.T) {
	m := node(t)
	listenOnNode(t)
	g := numbered(13)
	a := boot(t, m, g)
	a.configure(t)
	mtu := func(of string) string { return a.run(t, "cat", "/proc/sys/net/ipv6/conf/"+of+"/mtu") }
	if err := m.SetMTU(1400); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, patience, "the guest knows of 1400", func() bool { return strings.TrimSpace(mtu(a.nic)) == "1400" })
	if l, err := find(g.ID); err != nil || l.Attrs().MTU != 1400 {
		t.Errorf("the tap: %+v, %v", l, err)
	}
	a.reaches(t, nodeAddrs...)
	if err := m.SetMTU(1000); err == nil {
		t.Error("an MTU too small for IPv6 was taken")
	}
	a.off()
	if err := m.Detach(t.Context(), g.ID); err != nil {
		t.Error(err)
	}
}

// kernel describes links, addresses, routes, neighbours and rules.
func kernel(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, args := range [][]string{{"link"}, {"addr"}, {"route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}, {"neigh", "show", "nud", "permanent"}} {
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
		all.Write(out)
	}
	// Whether somebody holds a tap shows late (the kernel tells of a lost carrier
	// at most once a second), and isn't of interest.
	return regexp.MustCompile(` linkdown|<[A-Z_,-]*>| state [A-Z]+| qdisc [a-z_]+`).ReplaceAllString(all.String(), "")
}

// differs lists the lines that only one of the two has.
func differs(a, b string) string {
	var out strings.Builder
	for _, x := range []struct{ sign, of, in string }{{"-", a, b}, {"+", b, a}} {
		for line := range strings.Lines(x.of) {
			if !strings.Contains(x.in, line) {
				out.WriteString("\n" + x.sign + strings.TrimRight(line, "\n"))
			}
		}
	}
	return out.String()
}

// VM-06: QEMU holds the tap over the daemon's restart; the guest's packets go on,
// and the next manager answers it.
func TestAdopt(t *testing.T) {
	m := node(t)
	listenOnNode(t)
	vm := boot(t, m, numbered(31))
	vm.configure(t)
	m.Close()
	vm.reaches(t, nodeAddrs...)

	next, err := Open(m.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if ids, err := next.List(); err != nil || len(ids) != 1 || ids[0] != vm.guest.ID {
		t.Fatalf("listed %v, %v", ids, err)
	}
	for range 2 {
		if err := next.Adopt(t.Context(), vm.guest); err != nil {
			t.Fatal(err)
		}
	}
	vm.Do(t, func() error { // it renews with the new one
		c, err := nclient4.New(vm.nic, nclient4.WithTimeout(500*time.Millisecond), nclient4.WithRetry(retries))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Request(t.Context())
		return err
	})
	vm.reaches(t, nodeAddrs...)
	if err := next.Adopt(t.Context(), numbered(32)); !errors.Is(err, ErrNoLink) {
		t.Errorf("a guest without a link was adopted: %v", err)
	}
	vm.off()
	if err := next.Detach(t.Context(), vm.guest.ID); err != nil {
		t.Error(err)
	}
}

// What others remove is put back while the guest runs.
func TestMends(t *testing.T) {
	m := node(t)
	listenOnNode(t)
	vm := boot(t, m, numbered(41))
	vm.configure(t)
	tap, err := find(vm.guest.ID)
	if err != nil {
		t.Fatal(err)
	}
	bridge := func() netlink.Link {
		l, err := netlink.LinkByName(routes.Bridge)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	name := tap.Attrs().Name
	for _, c := range []struct {
		name string
		harm func() error
	}{
		{"tap down", func() error { return netlink.LinkSetDown(tap) }},
		{"gateway removed", func() error { return netlink.AddrDel(tap, &netlink.Addr{IPNet: ipNet(Gateway4, 32)}) }},
		{"IPv6 gateway removed", func() error { return netlink.AddrDel(tap, &netlink.Addr{IPNet: ipNet(Gateway6, 64)}) }},
		{"route removed", func() error {
			return netlink.RouteDel(&netlink.Route{Dst: ipNet(vm.guest.Addrs[0], 32), LinkIndex: tap.Attrs().Index, Scope: netlink.SCOPE_LINK})
		}},
		{"IPv6 route removed", func() error {
			return netlink.RouteDel(&netlink.Route{Dst: ipNet(vm.guest.Addrs[1], 128), LinkIndex: tap.Attrs().Index})
		}},
		{"portico0 down and up", func() error {
			return errors.Join(netlink.LinkSetDown(bridge()), netlink.LinkSetUp(bridge()))
		}},
		{"portico0 deleted", func() error { return netlink.LinkDel(bridge()) }},
		{"forwarding off", func() error {
			return errors.Join(sysctl.Set("net/ipv4/conf/"+name+"/forwarding", "0"), sysctl.Set("net/ipv6/conf/"+name+"/forwarding", "0"))
		}},
		{"rules flushed", func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			conn.FlushRuleset()
			return conn.Flush()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.harm(); err != nil {
				t.Fatal(err)
			}
			took := nstest.Eventually(t, patience, "mended", func() bool { return whole(name, vm.guest) })
			t.Logf("back after %v", took)
		})
	}
	vm.reaches(t, nodeAddrs...)
}

// whole tells whether everything hangs on the tap.
func whole(name string, g Guest) bool {
	out, _ := exec.Command("sh", "-c", "ip addr show dev "+name+"; ip route show dev "+name+"; ip -6 route show dev "+name).CombinedOutput()
	for _, want := range []string{
		"169.254.1.1/32", "fe80::1/64", "10.245.0.41 proto 112 scope link src 10.244.3.1", "fd00:10:245::41 proto 112 src fd00:10:244:3::1", ",UP",
	} {
		if !strings.Contains(string(out), want) {
			return false
		}
	}
	s, err := guard().Has()
	f4, err4 := sysctl.Get("net/ipv4/conf/" + name + "/forwarding")
	f6, err6 := sysctl.Get("net/ipv6/conf/" + name + "/forwarding")
	return errors.Join(err, err4, err6) == nil && s && f4 == "1" && f6 == "1" && g.ID != ""
}

// Debian 12's nft lists our rules as anybody writes them.
func TestListable(t *testing.T) {
	node(t)
	path, err := exec.LookPath("nft")
	if err != nil {
		t.Skip(err)
	}
	out, err := exec.Command(path, "list", "table", "inet", routes.LinkTable).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{
		`iifname != "portico-*" return`, "ip saddr != 0.0.0.0 fib saddr . iif oif 0 drop",
		"ip6 saddr != fe80::/10 ip6 saddr != :: fib saddr . iif oif 0 drop", "icmpv6 type nd-router-advert drop", "udp dport 547 drop",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// On a host without IPv6 a guest of both families lives by IPv4.
func TestNoIPv6(t *testing.T) {
	nstest.Need(t)
	const key = "net/ipv6/conf/all/disable_ipv6"
	if err := sysctl.Set(key, "1"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sysctl.Set(key, "0") })
	m := node(t)
	g := numbered(71)
	file, err := m.Attach(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	k := kernel(t)
	if !strings.Contains(k, "10.245.0.71 dev "+linkName(g.ID)) || strings.Contains(k, "fd00:10:24") {
		t.Errorf("the kernel has %s", k)
	}
	only6 := numbered(72)
	only6.Addrs = only6.Addrs[1:]
	if _, err := m.Attach(t.Context(), only6); err == nil || !strings.Contains(err.Error(), "IPv6 is switched off") {
		t.Errorf("an IPv6-only guest: %v", err)
	}
}

// What can't be attached is refused with a reason, and leaves nothing.
func TestRefuses(t *testing.T) {
	m := node(t)
	a := numbered(51)
	file, err := m.Attach(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	// The file waits for frames without holding a thread, and ends when closed.
	ended := make(chan error)
	go func() {
		for {
			if _, err := file.Read(make([]byte, 2048)); err != nil {
				ended <- err
				return
			}
		}
	}()
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) && !errors.Is(err, io.EOF) {
		t.Errorf("a read ended with %v", err)
	}
	// The kernel adds an IPv6 address' own route a moment after the address.
	nstest.Eventually(t, patience, "complete", func() bool { return strings.Contains(kernel(t), "local fe80::1 dev "+linkName(a.ID)) })
	before := kernel(t)
	for _, c := range []struct {
		name   string
		change func(*Guest)
		want   string
	}{
		{"another guest's address", func(g *Guest) { g.Addrs = a.Addrs }, "10.245.0.51 is still routed to " + linkName(a.ID)},
		{"no address", func(g *Guest) { g.Addrs = nil }, "no address"},
		{"two of a family", func(g *Guest) { g.Addrs = append(g.Addrs, netip.MustParseAddr("10.245.0.60")) }, "more than one address"},
		{"a group MAC", func(g *Guest) { g.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }, "hardware address"},
		{"the gateway's MAC", func(g *Guest) { g.MAC = GatewayMAC }, "hardware address"},
		{"no ID", func(g *Guest) { g.ID = "" }, "UID"},
		{"a bad search path", func(g *Guest) { g.Search = []string{strings.Repeat("x", 64) + ".example"} }, "search path"},
		{"a bad host name", func(g *Guest) { g.Hostname = "a..b" }, "host name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := numbered(52)
			c.change(&g)
			if f, err := m.Attach(t.Context(), g); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v", f, err)
			}
			if after := kernel(t); after != before {
				t.Errorf("something stayed: %s", differs(before, after))
			}
		})
	}
	if err := m.Detach(t.Context(), a.ID); err != nil {
		t.Error(err)
	}
}
