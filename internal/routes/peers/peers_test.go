package peers

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/test/rig"
)

// at80 is an address's port 80 of one family.
func at80(addrs []netip.Addr, ipv6 bool) netip.AddrPort {
	for _, a := range addrs {
		if a.Is6() == ipv6 {
			return netip.AddrPortFrom(a, 80)
		}
	}
	return netip.AddrPort{}
}

// reaches asks a guest by TCP and UDP of both families; it must see the asker's own address.
func (w *world) reaches(from *rig.Host, source, to []netip.Addr) {
	w.t.Helper()
	for _, ipv6 := range []bool{false, true} {
		for _, network := range []string{"tcp", "udp"} {
			a, err := from.Ask(network, at80(to, ipv6))
			if err != nil {
				w.t.Errorf("%s -> %v by %s: %v", from.Name, at80(to, ipv6), network, err)
			} else if want := at80(source, ipv6).Addr(); a.Client.Addr() != want {
				w.t.Errorf("%s -> %v by %s: it saw %v, want %v", from.Name, at80(to, ipv6), network, a.Client.Addr(), want)
			}
		}
	}
}

// all asks every guest from every other and from every node.
func (w *world) all() {
	w.t.Helper()
	type host struct {
		*rig.Host
		addrs []netip.Addr
	}
	guests := []host{{w.ga, guestA}, {w.gb, guestB}, {w.gc, guestC}}
	for i, from := range guests {
		for j, to := range guests {
			if i != j {
				w.reaches(from.Host, from.addrs, to.addrs)
			}
		}
	}
	for i, m := range []*member{w.a, w.b, w.c} {
		for j, to := range guests {
			if i != j {
				w.reaches(m.Host, m.PorticoAddrs, to.addrs)
			}
		}
	}
}

// DP-01 and NET-01 across nodes: guests and nodes reach each other's guests by their own
// addresses, directly on one link and inside VXLAN behind a router, over any underlay.
func TestReach(t *testing.T) {
	rig.Need(t)
	for _, c := range []struct {
		name    string
		at      [3]underlay
		mode    mesh.Mode
		toB     string // links of the routes to b's pods, IPv4 and IPv6
		toC     string
		tunnels string
	}{
		{"dual-stack", dualStack, mesh.Auto, "uplink uplink", "portico0-vxlan portico0-vxlan", "portico0-vxlan"},
		{"IPv4 only", onlyIPv4, mesh.Auto, "uplink portico0-vxlan", "portico0-vxlan portico0-vxlan", "portico0-vxlan"},
		{"IPv6 only", onlyIPv6, mesh.Auto, "portico0-vxlan6 uplink", "portico0-vxlan6 portico0-vxlan6", "portico0-vxlan6"},
		{"VXLAN always", dualStack, mesh.AlwaysVXLAN, "portico0-vxlan portico0-vxlan", "portico0-vxlan portico0-vxlan", "portico0-vxlan"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.at, 0)
			for _, m := range []*member{w.a, w.b, w.c} {
				m.orders.Mode = c.mode
			}
			w.start()
			for want, to := range map[string][2]string{c.toB: {"10.244.1.0/24", "fd00:10:244:1::/64"}, c.toC: {"10.244.2.0/24", "fd00:10:244:2::/64"}} {
				if got := w.a.linkOf(to[0]) + " " + w.a.linkOf(to[1]); got != want && c.toB != c.toC {
					t.Errorf("a's routes to %v go over %s, want %s", to, got, want)
				}
			}
			w.all()
			w.bulk(w.ga, guestC)
			w.bulk(w.gc, guestB)
			report := w.a.down()
			if left := w.a.ours(); len(left) > 0 || !strings.Contains(report, "link "+c.tunnels+"\n") {
				t.Errorf("left %v after\n%s", left, report)
			}
		})
	}
}

// linkOf names the link of our route to a range.
func (m *member) linkOf(to string) string {
	for _, r := range m.ours() {
		if r.Dst.String() == to {
			l, err := m.Links.LinkByIndex(r.LinkIndex)
			if err != nil {
				m.t.Fatal(err)
			}
			return l.Attrs().Name
		}
	}
	return "none"
}

// ours lists the routes to other nodes.
func (m *member) ours() []netlink.Route {
	m.t.Helper()
	have, err := m.Links.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routes.PeerProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		m.t.Fatal(err)
	}
	return have
}

// bulk sends much there and back, in both families.
func (w *world) bulk(from *rig.Host, to []netip.Addr) {
	w.t.Helper()
	for _, ipv6 := range []bool{false, true} {
		if err := thereAndBack(from, at80(to, ipv6)); err != nil {
			w.t.Errorf("%s -> %v: %v", from.Name, at80(to, ipv6), err)
		}
	}
}

func thereAndBack(from *rig.Host, to netip.AddrPort) error {
	sent := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	c, err := from.Dial("tcp", netip.AddrPort{}, to, rig.Patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := rig.Exchange(c, rig.Patience); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		done <- err
	}()
	got := make([]byte, len(sent))
	n, err := io.ReadFull(c, got)
	if err != nil || !bytes.Equal(got, sent) {
		return errors.Join(fmt.Errorf("%d of %d bytes came back: %w", n, len(sent), err), c.Close(), <-done)
	}
	return <-done
}

// DP-15 across nodes: who sends larger packets than the tunnel takes, and forbids
// fragments, is told how large they may be; and a narrow hop between the nodes that
// neither of them knows of loses nothing.
func TestPathMTU(t *testing.T) {
	rig.Need(t)
	for name, at := range map[string][3]underlay{"IPv4": dualStack, "IPv6": onlyIPv6} {
		t.Run("the tunnel over "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, at, 0)
			w.start()
			want := map[string]int{"IPv4": 1500 - 50, "IPv6": 1500 - 70}[name]
			for _, ipv6 := range []bool{false, true} {
				w.discovers(at80(guestC, ipv6), want)
			}
		})
		t.Run("a narrow hop under the tunnel over "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, at, 1400)
			w.start()
			w.bulk(w.ga, guestC)
			w.bulk(w.gc, guestA)
		})
	}
}

// discovers sends full Ethernet packets from guest a that may not be fragmented, until the
// kernel there knows of the smaller MTU; then one of that size arrives.
func (w *world) discovers(to netip.AddrPort, mtu int) {
	w.t.Helper()
	c, err := w.ga.Dial("udp", netip.AddrPort{}, to, rig.Patience)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	level, discover, do, known, headers := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, unix.IP_MTU, 28
	if to.Addr().Is6() {
		level, discover, do, known, headers = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO, unix.IPV6_MTU, 48
	}
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err != nil {
		w.t.Fatal(err)
	}
	option := func(f func(fd int) error) {
		w.t.Helper()
		if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil || err != nil {
			w.t.Fatal(e, err)
		}
	}
	option(func(fd int) error { return unix.SetsockoptInt(fd, level, discover, do) })
	now := 0
	eventually(w.t, fmt.Sprintf("guest a knows that %v takes %d bytes", to, mtu), func() bool {
		_, _ = c.Write(make([]byte, 1500-headers)) // refused once the smaller MTU is known
		option(func(fd int) (err error) { now, err = unix.GetsockoptInt(fd, level, known); return err })
		return now < 1500
	})
	if now != mtu {
		w.t.Errorf("guest a thinks that %v takes %d bytes, want %d", to, now, mtu)
	}
	if err := c.SetDeadline(time.Now().Add(rig.Patience)); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, "the errors about larger ones are read", func() bool {
		_, err := c.Write(make([]byte, now-headers))
		return err == nil
	})
	if _, err := c.Read(make([]byte, 100)); err != nil {
		w.t.Errorf("a packet of %d bytes to %v: %v", now, to, err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("not after 5 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// DP-18 across nodes: a Keeper that is killed and starts again loses no packet, removes
// what an earlier run left in error, and touches nothing of others.
func TestRestart(t *testing.T) {
	rig.Need(t)
	w := newWorld(t, dualStack, 0)
	w.start()
	index := w.a.index(rig.Uplink)
	stale := &netlink.Route{LinkIndex: index, Dst: ipNet(prefixes("10.245.7.7/32")[0]), Protocol: routes.PeerProtocol, Priority: metric}
	foreign := &netlink.Route{LinkIndex: index, Dst: ipNet(prefixes("10.244.2.0/24")[0]), Protocol: unix.RTPROT_STATIC, Priority: metric + 1}
	for _, r := range []*netlink.Route{stale, foreign} {
		if err := w.a.Links.RouteAdd(r); err != nil {
			t.Fatal(err)
		}
	}
	tunnel := w.a.index(mesh.TunnelIPv4)
	before := sentAgain(t, w.ga, w.gb, w.gc)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for _, to := range [][]netip.Addr{guestB, guestC} {
		for _, ipv6 := range []bool{false, true} {
			group.Go(func() {
				c, err := w.ga.Dial("tcp", netip.AddrPort{}, at80(to, ipv6), rig.Patience)
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				if _, err := rig.Exchange(c, rig.Patience); err != nil {
					t.Error(err)
				}
				for n := 0; ; n++ {
					select {
					case <-stop:
						t.Logf("%v answered %d times", to, n)
						return
					default:
					}
					err := rig.Echo(c, rig.Patience)
					if _, e := w.ga.Ask("udp", at80(to, ipv6)); e != nil || err != nil {
						t.Errorf("%v, exchange %d: %v, %v", to, n, err, e)
						return
					}
				}
			})
		}
	}
	for range 5 {
		w.a.kill()
		w.a.run()
		time.Sleep(50 * time.Millisecond) // an API that is slow to answer
		w.a.tell(w.nodes(), w.pods())
	}
	close(stop)
	group.Wait()
	// TCP hides what is lost, but counts it; a busy machine may be late with an answer or two.
	if n := sentAgain(t, w.ga, w.gb, w.gc) - before; n > 2 {
		t.Errorf("%d segments were sent again", n)
	}
	if now := w.a.index(mesh.TunnelIPv4); now != tunnel {
		t.Error("the tunnel was made anew")
	}
	for _, r := range w.a.ours() {
		if r.Dst.String() == stale.Dst.String() {
			t.Error("a route of an earlier run is still there")
		}
	}
	w.a.down()
	if err := w.a.Links.RouteDel(foreign); err != nil {
		t.Errorf("a route of somebody else is gone: %v", err)
	}
}

// sentAgain counts the TCP segments that hosts sent again for want of an answer.
func sentAgain(t *testing.T, hosts ...*rig.Host) int {
	t.Helper()
	return rig.Sum(t, "/proc/net/snmp", "Tcp", "RetransSegs", hosts...)
}

func (m *member) index(link string) int {
	m.t.Helper()
	l, err := m.Links.LinkByName(link)
	if err != nil {
		m.t.Fatal(err)
	}
	return l.Attrs().Index
}

// Routes follow guests that move, nodes that change address or go, and come back when
// somebody removes them.
func TestFollow(t *testing.T) {
	rig.Need(t)
	w := newWorld(t, dualStack, 0)
	w.start()

	// b's guest moves to c: its address is on another link there.
	for _, a := range guestB {
		must(t, w.b.Links.RouteDel(&netlink.Route{Dst: ipNet(netip.PrefixFrom(a, a.BitLen()))}))
	}
	moved := w.c.Guest(t, "gb-on-c", guestB...)
	for _, a := range guestB {
		moved.ServeTCP(t, netip.AddrPortFrom(a, 80))
		moved.ServeUDP(t, netip.AddrPortFrom(a, 80))
	}
	pods := w.pods()
	pods[1].Node = "c"
	for _, m := range []*member{w.a, w.b, w.c} {
		m.tell(w.nodes(), pods)
	}
	w.reaches(w.ga, guestA, guestB)
	w.reaches(moved, guestB, guestA)

	// b changes its address: the others hear of it from the API, b from its host.
	for _, change := range []struct{ old, new string }{{"192.0.2.2/24", "192.0.2.22/24"}, {"2001:db8::2/64", "2001:db8::22/64"}} {
		must(t, w.b.DelAddr(rig.Uplink, netip.MustParsePrefix(change.old)))
		must(t, w.b.AddAddr(rig.Uplink, netip.MustParsePrefix(change.new)))
	}
	must(t, w.b.AddRoute(rig.Route{To: prefixes("0.0.0.0/0")[0], Link: rig.Uplink, Via: addrs("192.0.2.254")[0]})) // went with the address
	w.b.orders.Addresses = addrs("192.0.2.22", "2001:db8::22")
	for _, m := range []*member{w.a, w.b, w.c} {
		m.tell(w.nodes(), pods)
	}
	for i, own := range addrs("10.244.1.1", "fd00:10:244:1::1") { // b itself
		w.b.ServeTCP(t, netip.AddrPortFrom(own, 8080))
		for _, from := range []*rig.Host{w.ga, w.gc} {
			if _, err := from.Ask("tcp", netip.AddrPortFrom(own, 8080)); err != nil {
				t.Errorf("%d: %s -> %v after b's address changed: %v", i, from.Name, own, err)
			}
		}
	}

	// Somebody removes what we need.
	for _, vandal := range []func() error{
		func() error {
			return w.a.Links.LinkDel(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: mesh.TunnelIPv4}})
		},
		func() error { return w.a.Links.RouteDel(&netlink.Route{Dst: ipNet(prefixes("10.244.1.0/24")[0])}) },
		func() error { _, err := w.a.Run("nft", "flush", "ruleset"); return err },
	} {
		before := len(w.a.ours())
		must(t, vandal())
		took := eventually(t, "a's routes are back", func() bool { return len(w.a.ours()) == before && w.a.guarded() })
		t.Logf("back after %v", took)
		w.reaches(w.ga, guestA, guestC)
	}

	// c goes, with all that led to it.
	w.a.tell(w.nodes()[:2], pods)
	for _, r := range w.a.ours() {
		if s := r.Dst.String(); !strings.Contains(s, "10.244.1.") && !strings.Contains(s, "244:1:") {
			t.Errorf("a route is left: %s", s)
		}
	}
	if left, _ := w.a.Run("bridge", "fdb", "show", "dev", mesh.TunnelIPv4); strings.Contains(left, "203.0.113.3") {
		t.Errorf("the tunnel knows a node that is gone:\n%s", left)
	}
	// And b: nothing is left but the table.
	w.a.tell(w.nodes()[:1], nil)
	if left := w.a.ours(); len(left) > 0 {
		t.Errorf("routes are left: %v", left)
	}
	if _, err := w.a.Links.LinkByName(mesh.TunnelIPv4); err == nil {
		t.Error("the tunnel is left")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// guarded tells whether the table against strangers is there.
func (m *member) guarded() bool {
	out, err := m.Run("nft", "-j", "list", "table", "inet", routes.PeerTable)
	return err == nil && strings.Contains(out, `"drop"`)
}

// A stranger on the LAN can't send into the tunnel; a peer can.
func TestStrangers(t *testing.T) {
	rig.Need(t)
	w := newWorld(t, dualStack, 0)
	w.start()
	heard, err := w.gc.Listen(netip.AddrPortFrom(guestC[0], 999))
	must(t, err)
	defer heard.Close()
	header := []byte{0x08, 0, 0, 0, 'p', 'o', 'r', 0}
	frame := func(text string) []byte {
		datagram := rig.UDPDatagram(netip.AddrPortFrom(guestA[0], 1), netip.AddrPortFrom(guestC[0], 999), []byte(text))
		inner := rig.IP{From: guestA[0], To: guestC[0], Proto: rig.UDP, Payload: datagram}.Bytes()
		return slices.Concat(header, mesh.MAC("c"), mesh.MAC("a"), []byte{0x08, 0x00}, inner)
	}
	to := netip.MustParseAddrPort("203.0.113.3:4789")
	send := func(from *rig.Host, text string) {
		t.Helper()
		c, err := from.Dial("udp", netip.AddrPort{}, to, rig.Patience)
		must(t, err)
		defer c.Close()
		_, err = c.Write(frame(text))
		must(t, err)
	}
	// The stranger's first: had it come through, it would be read before the peer's.
	send(w.router, "x")
	send(w.a.Host, "y")
	must(t, heard.SetReadDeadline(time.Now().Add(rig.Patience)))
	buf := make([]byte, 10)
	n, err := heard.Read(buf)
	if err != nil || string(buf[:n]) != "y" {
		t.Errorf("guest c heard %q, %v", buf[:n], err)
	}
}
