package records

import (
	"net/netip"
	"slices"
	"testing"
)

func TestReverseZones(t *testing.T) {
	for _, tt := range []struct {
		prefix      string
		count       int
		first, last string
	}{
		{"10.96.0.0/12", 16, "96.10.in-addr.arpa", "111.10.in-addr.arpa"},
		{"10.244.0.0/16", 1, "244.10.in-addr.arpa", "244.10.in-addr.arpa"},
		{"10.244.1.0/25", 128, "0.1.244.10.in-addr.arpa", "127.1.244.10.in-addr.arpa"},
		{"192.0.2.7/32", 1, "7.2.0.192.in-addr.arpa", "7.2.0.192.in-addr.arpa"},
		{"fd00:10:244::/56", 1, "0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa", "0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa"},
		{"fd00::/7", 2, "c.f.ip6.arpa", "d.f.ip6.arpa"},
		{"0.0.0.0/0", 0, "", ""},
	} {
		got := ReverseZones(netip.MustParsePrefix(tt.prefix))
		if len(got) != tt.count {
			t.Errorf("%s: %d zones, want %d: %q", tt.prefix, len(got), tt.count, got)
			continue
		}
		if tt.count == 0 {
			continue
		}
		if got[0] != tt.first || got[len(got)-1] != tt.last {
			t.Errorf("%s: %s to %s, want %s to %s", tt.prefix, got[0], got[len(got)-1], tt.first, tt.last)
		}
		// Each zone holds names of the range and of nothing else.
		for _, zone := range got {
			name, err := ParseName(zone)
			if err != nil {
				t.Fatal(err)
			}
			p, ok := reversePrefix([]byte(name))
			if whole := netip.MustParsePrefix(tt.prefix); !ok || !whole.Contains(p.Addr()) || p.Bits() < whole.Bits() {
				t.Errorf("%s: %s is of %s", tt.prefix, zone, p)
			}
		}
		if sorted := slices.Compact(slices.Sorted(slices.Values(got))); len(sorted) != len(got) {
			t.Errorf("%s: a zone is there twice", tt.prefix)
		}
	}
}
