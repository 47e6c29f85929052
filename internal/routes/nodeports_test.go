package routes

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/nstest"
)

// DP-05: node ports answer at the primary addresses or in ranges; what can't be served is
// refused with the flag's name and what to write instead.
func TestParseNodePorts(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"primary", "[]"},
		{"192.0.2.0/24", "[192.0.2.0/24]"},
		{"192.0.2.10/32, 2001:db8::/64,198.51.100.0/24", "[192.0.2.10/32 2001:db8::/64 198.51.100.0/24]"},
		{"0.0.0.0/0,::/0", "[0.0.0.0/0 ::/0]"},
	} {
		got, err := ParseNodePorts(c.value)
		if err != nil || fmt.Sprint(got) != c.want {
			t.Errorf("%q: got %v, %v, want %s", c.value, got, err, c.want)
		}
	}
	const form = "is not an address range; write ranges like 192.0.2.0/24,2001:db8::/64, or primary alone"
	for _, c := range []struct{ value, want string }{
		{"", `: "" ` + form},
		{"lan", `: "lan" ` + form},
		{"192.0.2.10", `: "192.0.2.10" ` + form},
		{"primary,192.0.2.0/24", `: "primary" ` + form},
		{"192.0.2.0/24,", `: "" ` + form},
		{"192.0.2.10/24", " 192.0.2.10/24 has bits set beyond its length; did you mean 192.0.2.0/24, or 192.0.2.10/32?"},
		{"::ffff:192.0.2.0/120", " ::ffff:192.0.2.0/120 is an IPv4 range in IPv6 notation; write it as IPv4"},
		{"127.0.0.0/8", " 127.0.0.0/8 is loopback, where node ports don't answer; leave it out (the iptables data plane serves 127.0.0.1 with --iptables-localhost-nodeports)"},
		{"192.0.2.0/24,::1/128", " ::1/128 is loopback, where node ports don't answer; leave it out"},
		{"fe80::/64", " fe80::/64 has link-local addresses only (fe80::/10), where node ports don't answer; leave it out"},
		{"169.254.0.0/16", " 169.254.0.0/16 has link-local addresses only"},
		{"224.0.0.0/8", " 224.0.0.0/8 has multicast and reserved addresses only"},
	} {
		if got, err := ParseNodePorts(c.value); err == nil || !strings.HasPrefix(err.Error(), "--nodeport-addresses"+c.want) {
			t.Errorf("%q: got %v, %v, want %s", c.value, got, err, c.want)
		}
	}
}

// DP-05: of a host's addresses those in the ranges are chosen, each once, unless nobody could
// reach them.
func TestWithin(t *testing.T) {
	links := map[int]*netlink.LinkAttrs{1: {Name: "lo"}, 2: {Name: "eth0"}, 3: {Name: "eth1"}}
	var all []netlink.Addr
	for _, a := range []struct {
		cidr  string
		link  int
		flags int
	}{
		{"127.0.0.1/8", 1, 0},
		{"203.0.113.5/32", 1, 0},
		{"::1/128", 1, 0},
		{"192.0.2.10/24", 2, 0},
		{"192.0.2.200/24", 2, unix.IFA_F_SECONDARY},
		{"2001:db8::10/64", 2, 0},
		{"2001:db8::20/64", 2, unix.IFA_F_DEPRECATED},
		{"2001:db8::30/64", 2, unix.IFA_F_TENTATIVE},
		{"2001:db8::31/64", 2, unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC},
		{"2001:db8::40/64", 2, unix.IFA_F_DADFAILED},
		{"fe80::10/64", 2, 0},
		{"198.51.100.10/24", 3, 0},
		{"192.0.2.10/24", 3, 0},
		{"10.244.0.1/24", 4, 0}, // of a link that is down, or ours
	} {
		x := *addr(a.cidr)
		x.LinkIndex, x.Flags = a.link, a.flags
		all = append(all, x)
	}
	for _, c := range []struct{ ranges, want string }{
		{"192.0.2.0/24", "[192.0.2.10 192.0.2.200]"},
		{"192.0.2.10/32,198.51.100.0/24", "[192.0.2.10 198.51.100.10]"},
		{"2001:db8::/64", "[2001:db8::10 2001:db8::20 2001:db8::31]"},
		{"0.0.0.0/0", "[192.0.2.10 192.0.2.200 198.51.100.10 203.0.113.5]"},
		{"::/0", "[2001:db8::10 2001:db8::20 2001:db8::31]"},
		{"10.0.0.0/8", "[]"},
	} {
		ranges, err := ParseNodePorts(c.ranges)
		if got := fmt.Sprint(within(ranges, all, links)); err != nil || got != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.ranges, got, err, c.want)
		}
	}
}

// DP-05, NET-04: the addresses of node ports are followed by the kernel's own news, also those
// on the loopback link, and while the host has no primary address.
func TestWatchNodePorts(t *testing.T) {
	nstest.Need(t)
	uplink(t)
	lan := nstest.New(t)
	lan.Connect(t, "eth1", []string{"198.51.100.1/24", "fd00:1::1/64"}, "lan0", nil)
	watch := func(value string) (next func(want string)) {
		ranges, err := ParseNodePorts(value)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		news, done := make(chan string, 16), make(chan error)
		go func() {
			done <- WatchAddresses(ctx, nil, ranges, slog.New(slog.NewTextHandler(t.Output(), nil)), func(at []netip.Addr) { news <- fmt.Sprint(at) }, func(Addresses) {})
		}()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return func(want string) {
			t.Helper()
			for got := ""; got != want; { // there may be states between
				select {
				case got = <-news:
				case <-time.After(patience):
					t.Fatalf("%s: no news of %s", value, want)
				}
			}
		}
	}
	change := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	change(err)
	eth1, err := netlink.LinkByName("eth1")
	change(err)
	eth9, err := netlink.LinkByName("eth9")
	change(err)
	primary, ranges := watch("primary"), watch("198.51.100.0/24,203.0.113.0/24,fd00:1::/64")
	primary("[192.0.2.2 2001:db8::2]")
	ranges("[198.51.100.1 fd00:1::1]")

	change(netlink.AddrAdd(lo, addr("203.0.113.5/32")))
	ranges("[198.51.100.1 203.0.113.5 fd00:1::1]")
	change(netlink.LinkSetDown(eth1))
	ranges("[203.0.113.5]")
	change(netlink.AddrDel(lo, addr("203.0.113.5/32")))
	ranges("[]")
	change(netlink.LinkDel(eth9)) // with the last primary address
	change(netlink.AddrAdd(lo, addr("203.0.113.6/32")))
	ranges("[203.0.113.6]")
	change(netlink.AddrDel(lo, addr("203.0.113.6/32")))
	ranges("[]")
	change(netlink.LinkSetUp(eth1))
	primary("[198.51.100.1]") // IPv6 addresses went with the link
	ranges("[198.51.100.1]")
}
