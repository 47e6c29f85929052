package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

func mustGuests(t *testing.T, prefixes ...string) *GuestRange {
	t.Helper()
	var ps []netip.Prefix
	for _, p := range prefixes {
		ps = append(ps, netip.MustParsePrefix(p))
	}
	g, err := NewGuestRange(ps...)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGuestAddressesBelongTogether(t *testing.T) {
	for _, tc := range []struct {
		prefixes []string
		n        uint64
		want     string
	}{
		{[]string{"10.245.0.0/16", "fd00:10:245::/64"}, 2, "[10.245.0.2 fd00:10:245::2] 02:70:0a:f5:00:02"},
		{[]string{"10.245.0.0/16", "fd00:10:245::/64"}, 261, "[10.245.1.5 fd00:10:245::105] 02:70:0a:f5:01:05"},
		{[]string{"fd00:10:245::/64", "10.245.0.0/16"}, 2, "[fd00:10:245::2 10.245.0.2] 02:70:0a:f5:00:02"},
		{[]string{"10.245.0.0/16"}, 65534, "[10.245.255.254] 02:70:0a:f5:ff:fe"},
		{[]string{"fd00:10:245::/64"}, 1<<32 - 1, "[fd00:10:245::ffff:ffff] 02:70:ff:ff:ff:ff"},
	} {
		got := mustGuests(t, tc.prefixes...).guest(tc.n)
		if s := fmt.Sprint(got.Addrs, " ", got.MAC); s != tc.want {
			t.Errorf("%v: %s, want %s", tc.prefixes, s, tc.want)
		}
		if got.MAC[0]&0b11 != 0b10 {
			t.Errorf("%s isn't a locally administered unicast address", got.MAC)
		}
	}
}

func TestGuestKeepsItsAddress(t *testing.T) {
	g := mustGuests(t, "10.245.0.0/16", "fd00:10:245::/64")
	first, err := g.Pick("example-namespace", "vm-a")
	if err != nil {
		t.Fatal(err)
	}
	other, _ := g.Pick("example-namespace", "vm-b")
	g.Release(first.Addrs...)
	again, _ := g.Pick("example-namespace", "vm-a")
	if fmt.Sprint(again) != fmt.Sprint(first) || fmt.Sprint(other) == fmt.Sprint(first) {
		t.Errorf("first %v, other %v, again %v", first, other, again)
	}
	// Somebody else has it: the next free one.
	next, _ := g.Pick("example-namespace", "vm-a")
	if fmt.Sprint(next) == fmt.Sprint(first) {
		t.Errorf("%v was given twice", next)
	}
}

func TestGuestRangeFills(t *testing.T) {
	g := mustGuests(t, "10.245.0.0/28", "fd00:10:245::/64")
	g.Mark(netip.MustParseAddr("10.245.0.1"), netip.MustParseAddr("fd00:10:245::1"), netip.MustParseAddr("192.0.2.1")) // no guest's
	g.Mark(netip.MustParseAddr("fd00:10:245::7"))
	seen := map[netip.Addr]bool{}
	for i := range 12 {
		guest, err := g.Pick("ns", fmt.Sprint("vm", i))
		if err != nil {
			t.Fatalf("guest %d: %v", i, err)
		}
		last := guest.Addrs[0].As4()[3]
		if seen[guest.Addrs[0]] || last < 2 || last > 14 || last == 7 {
			t.Errorf("guest %d got %v", i, guest)
		}
		seen[guest.Addrs[0]] = true
	}
	if _, err := g.Pick("ns", "vm"); !errors.Is(err, ErrFull) || g.Free() != 0 {
		t.Errorf("full, %d free: %v", g.Free(), err)
	}
	g.Release(netip.MustParseAddr("fd00:10:245::9"))
	if guest, err := g.Pick("ns", "vm"); err != nil || guest.Addrs[0].String() != "10.245.0.9" {
		t.Errorf("after a release: %v, %v", guest, err)
	}
}

func TestGuestWithChosenAddresses(t *testing.T) {
	g := mustGuests(t, "10.245.0.0/16", "fd00:10:245::/64")
	guest, err := g.Guest(netip.MustParseAddr("fd00:10:245::9"), netip.MustParseAddr("10.245.0.7"))
	if err != nil || guest.MAC.String() != "02:70:0a:f5:00:07" {
		t.Errorf("%v, %v", guest, err)
	}
	var notInRange *NotInRangeError
	for _, bad := range []string{"10.245.0.1", "10.245.255.255", "10.96.0.2", "fd00:10:245::1", "fd00:10:245:0:1::"} {
		if _, err := g.Guest(netip.MustParseAddr(bad)); !errors.As(err, &notInRange) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := g.Guest(); err == nil {
		t.Error("a guest without an address")
	}
}

func TestNewGuestRangeRefuses(t *testing.T) {
	for _, prefixes := range [][]netip.Prefix{
		nil,
		{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("10.246.0.0/16")},
		{netip.MustParsePrefix("10.245.0.1/16")},
		{netip.MustParsePrefix("fd00::/127")},
		{netip.MustParsePrefix("fd00::/48")},
	} {
		if _, err := NewGuestRange(prefixes...); err == nil {
			t.Errorf("%v was accepted", prefixes)
		}
	}
}
