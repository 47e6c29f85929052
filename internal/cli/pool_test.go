package cli

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/pools"
)

// LB-01: what `portico pool add` leaves of the ranges once the LAN was asked.
func TestTakenAddressesAreLeftOut(t *testing.T) {
	for _, tt := range []struct{ ranges, taken, want string }{
		{"192.0.2.1-192.0.2.9", "", "192.0.2.1-192.0.2.9"},
		{"192.0.2.0/30", "192.0.2.0", "192.0.2.1-192.0.2.3"},
		{"192.0.2.0/30", "192.0.2.3", "192.0.2.0-192.0.2.2"},
		{"192.0.2.0/29", "192.0.2.2 192.0.2.4 192.0.2.5", "192.0.2.0-192.0.2.1 192.0.2.3/32 192.0.2.6-192.0.2.7"},
		{"192.0.2.1", "192.0.2.1", ""},
		{"192.0.2.1 2001:db8::1", "192.0.2.1", "2001:db8::1/128"},
		{"192.0.2.1-192.0.2.2", "2001:db8::1 192.0.2.9", "192.0.2.1-192.0.2.2"},
	} {
		ranges, err := readRanges(strings.Fields(tt.ranges))
		if err != nil {
			t.Fatal(err)
		}
		taken := map[netip.Addr]net.HardwareAddr{}
		for _, addr := range strings.Fields(tt.taken) {
			taken[netip.MustParseAddr(addr)] = nil
		}
		var left []string
		for _, r := range ranges {
			for _, s := range r.without(taken) {
				left = append(left, s.String())
			}
		}
		if got := strings.Join(left, " "); got != tt.want {
			t.Errorf("%s without %s: %s, want %s", tt.ranges, tt.taken, got, tt.want)
		}
	}
	if addrs, all := firstOf([]span{{netip.MustParseAddr("2001:db8::"), netip.MustParseAddr("2001:db8::ffff")}}, 10); len(addrs) != 10 || all {
		t.Errorf("%v, all: %v", addrs, all)
	}
}

// What the controller would leave out is refused before it is written; who is older doesn't
// matter.
func TestPoolThatOverlapsIsRefused(t *testing.T) {
	p := &poolAdd{}
	old := &core.IPAddressPool{Spec: core.IPAddressPoolSpec{Addresses: []string{"192.0.2.0/28"}}}
	old.Name = "old"
	newer, _ := p.merge(&core.Config{}, "newer", []span{{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.9")}})
	config := &core.Config{Pools: []*core.IPAddressPool{newer, old}}
	reserved := []pools.Reserved{
		{Prefix: netip.MustParsePrefix("10.96.0.0/12"), What: "the cluster IPs of ServiceCIDR kubernetes"},
		{Prefix: netip.MustParsePrefix("192.0.2.99/32"), What: "the address of node a"},
		{Prefix: netip.MustParsePrefix("192.0.2.7/32"), What: "the address of node b, which came later"},
	}
	for name, want := range map[string]string{
		"old 198.51.100.9":  "older IPAddressPool old",
		"newer 192.0.2.15":  "older IPAddressPool old",
		"third 192.0.2.1":   "older IPAddressPool old",
		"third 127.0.0.1":   "every host's own",
		"third 10.96.7.1":   "the cluster IPs of ServiceCIDR kubernetes",
		"third 192.0.2.99":  "the address of node a",
		"third 203.0.113.1": "<nil>",
		"old 192.0.2.1":     "<nil>",
		"old 203.0.113.2":   "<nil>",
		"old 192.0.2.7":     "which came later",
	} {
		of, addr, _ := strings.Cut(name, " ")
		a := netip.MustParseAddr(addr)
		pool, _ := p.merge(config, of, []span{{a, a}})
		if err := overlaps(config, pool, reserved); !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	if len(old.Spec.Addresses) != 1 {
		t.Error("the pool that was read is changed")
	}
}
