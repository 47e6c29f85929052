package pools

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/metallb"
)

// makePool is the n-th that was created.
func makePool(name string, n int, addresses ...string) *metallb.IPAddressPool {
	return &metallb.IPAddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: metallb.Namespace, CreationTimestamp: metav1.Time{Time: time.Unix(int64(n), 0)}},
		Spec:       metallb.IPAddressPoolSpec{Addresses: addresses},
	}
}

func config(pools ...*metallb.IPAddressPool) *metallb.Config { return &metallb.Config{Pools: pools} }

// LB-01: what is written in pools, and what of it counts.
func TestParse(t *testing.T) {
	for name, tt := range map[string]struct {
		pools    []*metallb.IPAddressPool
		reserved string
		find     string // "address=pool" and "address=" for none
		faults   []string
	}{
		"prefixes and ranges of both families": {
			pools: []*metallb.IPAddressPool{makePool("a", 1, "192.0.2.0/30", "192.0.2.8 - 192.0.2.9", "2001:db8::/126")},
			find:  "192.0.2.0=a 192.0.2.3=a 192.0.2.4= 192.0.2.7= 192.0.2.8=a 192.0.2.9=a 192.0.2.10= 2001:db8::3=a 2001:db8::4= ::ffff:192.0.2.1=a",
		},
		"a prefix with bits of hosts": {pools: []*metallb.IPAddressPool{makePool("a", 1, "192.0.2.6/30")}, find: "192.0.2.4=a 192.0.2.8="},
		"the older pool keeps the addresses": {
			pools:  []*metallb.IPAddressPool{makePool("a", 2, "192.0.2.0/28"), makePool("b", 1, "192.0.2.4-192.0.2.5")},
			find:   "192.0.2.3=a 192.0.2.4=b 192.0.2.5=b 192.0.2.6=a",
			faults: []string{"IPAddressPool a, 192.0.2.0/28: 192.0.2.4-192.0.2.5 belong to the older IPAddressPool b"},
		},
		"of two made at once, the first by name": {
			pools:  []*metallb.IPAddressPool{makePool("b", 1, "192.0.2.0/30"), makePool("a", 1, "192.0.2.0/29")},
			find:   "192.0.2.0=a",
			faults: []string{"IPAddressPool b, 192.0.2.0/30: 192.0.2.0-192.0.2.7 belong to the older IPAddressPool a"},
		},
		"written twice": {pools: []*metallb.IPAddressPool{makePool("a", 1, "192.0.2.0/30", "192.0.2.2-192.0.2.6")}, find: "192.0.2.6=a 192.0.2.7="},
		"unreadable": {
			pools: []*metallb.IPAddressPool{makePool("a", 1, "192.0.2.1", "lan", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "192.0.2.1-x", "fe80::1%eth0-fe80::2%eth0", "10.0.0.0/33", "192.0.2.200/32")},
			find:  "192.0.2.1= 192.0.2.200=a",
			faults: []string{
				"a single address is 192.0.2.1/32", `"lan" is neither`, "write 192.0.2.1-192.0.2.9", "write two ranges", "isn't two addresses", "isn't two addresses", "is neither a prefix",
			},
		},
		"reserved": {
			pools: []*metallb.IPAddressPool{makePool("a", 1, "10.96.0.0/11")}, reserved: "10.96.0.0/12",
			find: "10.96.0.1= 10.111.255.255= 10.112.0.0=a", faults: []string{"it overlaps 10.96.0.0/12, the cluster IPs"},
		},
		"special": {
			pools: []*metallb.IPAddressPool{makePool("a", 1, "0.0.0.0/0", "::/0")}, find: "127.0.0.1= 224.0.0.1= 255.255.255.255= 8.8.8.8=a ::1= fe80::1= ff02::1= 2001:db8::1=a",
			faults: []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/127", "IPv4 in disguise", "fe80::/10", "ff00::/8"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var reserved []Reserved
			if tt.reserved != "" {
				reserved = []Reserved{{netip.MustParsePrefix(tt.reserved), "the cluster IPs"}}
			}
			set, faults := Parse(config(tt.pools...), reserved...)
			for _, pair := range strings.Fields(tt.find) {
				text, want, _ := strings.Cut(pair, "=")
				got := ""
				if p := set.Find(netip.MustParseAddr(text)); p != nil {
					got = p.Name
				}
				if got != want {
					t.Errorf("%s is of %q, want %q", text, got, want)
				}
			}
			if len(faults) != len(tt.faults) {
				t.Fatalf("faults: %v", faults)
			}
			for i, f := range faults {
				if !strings.Contains(f.String(), tt.faults[i]) {
					t.Errorf("fault %q, want %q in it", f, tt.faults[i])
				}
			}
		})
	}
}

func TestSizes(t *testing.T) {
	for _, tt := range []struct {
		ranges string
		avoid  bool
		v4, v6 int64
	}{
		{"192.0.2.0/24", false, 256, 0},
		{"192.0.2.0/24", true, 254, 0},
		{"192.0.2.1-192.0.2.254", true, 254, 0},
		{"192.0.2.255-192.0.3.0", true, 0, 0},
		{"192.0.2.10-192.0.4.10", true, 513 - 4, 0},
		{"10.0.0.0/8", true, 1<<24 - 2<<16, 0},
		{"2001:db8::/120", true, 0, 256},
		{"2001:db8::ffff:ffff:ffff:fff0-2001:db8:0:1::f", false, 0, 32},
		{"2001:db8::/64", false, 0, math.MaxInt64},
		{"2001:db8::/64 2001:db9::/64", false, 0, math.MaxInt64},
	} {
		p := makePool("a", 1, strings.Fields(tt.ranges)...)
		p.Spec.AvoidBuggyIPs = tt.avoid
		set, _ := Parse(config(p))
		if got := NewAllocator(set).Counts()["a"]; got.AvailableIPv4 != tt.v4 || got.AvailableIPv6 != tt.v6 {
			t.Errorf("%s: %+v", tt.ranges, got)
		}
	}
}

// FuzzParseRange: whatever a person writes is a range that holds together, or an error.
func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"192.0.2.0/28", "192.0.2.1-192.0.2.9", "2001:db8::/120", "1-2", "-", "::-::", "0.0.0.0/0", "10.0.0.1 - 10.0.0.2", "fe80::1%a-fe80::2%a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		first, last, err := ParseRange(text)
		if err != nil {
			return
		}
		if last.Less(first) || first.BitLen() != last.BitLen() {
			t.Errorf("%q: %s-%s", text, first, last)
		}
		set, _ := Parse(config(makePool("a", 1, text), makePool("b", 2, text)))
		for _, addr := range []netip.Addr{first, last} {
			if p := set.Find(addr); p != nil && p.Name != "a" {
				t.Errorf("%q: %s is of %s", text, addr, p.Name)
			}
		}
	})
}

// Finding a pool doesn't get dearer with the number of pools.
func BenchmarkFind(b *testing.B) {
	for _, n := range []int{10, 10000} {
		c := config()
		for i := range n {
			c.Pools = append(c.Pools, makePool(fmt.Sprint("p", i), i, fmt.Sprintf("10.%d.%d.0/28", i/256, i%256)))
		}
		set, _ := Parse(c)
		addr := netip.AddrFrom4([4]byte{10, byte(n / 2 / 256), byte(n / 2 % 256), 3})
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if set.Find(addr) == nil {
					b.Fatal("not found")
				}
			}
		})
	}
}
