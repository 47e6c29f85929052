package ipam

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
)

func mustRange(t testing.TB, prefix string) *Range {
	t.Helper()
	r, err := NewRange(netip.MustParsePrefix(prefix), rand.New(rand.NewPCG(1, 2)).Uint64N)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ALLOC-01: the bands, by the addresses that the documentation of Kubernetes gives
// for 10.96.0.0/24 and /20 (KEP-3070) and by the rule for the others.
func TestRangeBands(t *testing.T) {
	for _, tc := range []struct {
		prefix, first, dynamic, last string
		free                         uint64
	}{
		{"10.96.0.0/12", "10.96.0.1", "10.96.1.1", "10.111.255.254", 1<<20 - 2},
		{"10.96.0.0/16", "10.96.0.1", "10.96.1.1", "10.96.255.254", 65534},
		{"10.96.0.0/20", "10.96.0.1", "10.96.1.1", "10.96.15.254", 4094},
		{"10.96.0.0/24", "10.96.0.1", "10.96.0.17", "10.96.0.254", 254},
		{"10.96.0.0/27", "10.96.0.1", "10.96.0.17", "10.96.0.30", 30},
		{"10.96.0.0/28", "10.96.0.1", "10.96.0.1", "10.96.0.14", 14},
		{"10.96.0.4/30", "10.96.0.5", "10.96.0.5", "10.96.0.6", 2},
		{"fd00:10:96::/112", "fd00:10:96::1", "fd00:10:96::101", "fd00:10:96::ffff", 65535},
		{"fd00:10:96::/64", "fd00:10:96::1", "fd00:10:96::101", "fd00:10:96:0:ffff:ffff:ffff:ffff", ^uint64(0)},
		{"fd00:10:96::/124", "fd00:10:96::1", "fd00:10:96::1", "fd00:10:96::f", 15},
		{"fd00:10:96::/127", "fd00:10:96::1", "fd00:10:96::1", "fd00:10:96::1", 1},
	} {
		t.Run(tc.prefix, func(t *testing.T) {
			r := mustRange(t, tc.prefix)
			got := fmt.Sprint(r.address(0), " ", r.address(r.numbers.band), " ", r.address(r.numbers.size-1), " ", r.Free())
			if want := fmt.Sprint(tc.first, " ", tc.dynamic, " ", tc.last, " ", tc.free); got != want {
				t.Errorf("first, dynamic, last, free: %s, want %s", got, want)
			}
			last := netip.MustParseAddr(tc.last)
			for _, outside := range []netip.Addr{r.prefix.Addr(), r.prefix.Addr().Prev(), last.Next(), netip.MustParseAddr("192.0.2.1"), {}} {
				if r.Contains(outside) {
					t.Errorf("contains %s", outside)
				}
			}
			if n, ok := r.number(last); !ok || r.address(n) != last {
				t.Errorf("%s is number %d, %v", last, n, ok)
			}
		})
	}
}

func TestNewRangeRefuses(t *testing.T) {
	for _, prefix := range []netip.Prefix{
		{},
		netip.MustParsePrefix("10.96.0.1/12"),
		netip.MustParsePrefix("10.96.0.0/32"),
		netip.MustParsePrefix("10.96.0.0/31"),
		netip.MustParsePrefix("fd00::/128"),
		netip.MustParsePrefix("fd00::/56"),
		netip.MustParsePrefix("::ffff:10.96.0.0/112"),
	} {
		if _, err := NewRange(prefix, nil); err == nil {
			t.Errorf("%s was accepted", prefix)
		} else {
			t.Log(err)
		}
	}
}

// ALLOC-01, ALLOC-06: the upper part first, then the band, then an error, and what is
// freed can be had again at once.
func TestRangeFillsAndRecovers(t *testing.T) {
	for _, prefix := range []string{"10.96.0.0/24", "10.96.0.0/28", "fd00:10:96::/120"} {
		r := mustRange(t, prefix)
		seen := map[netip.Addr]bool{}
		total := r.Free()
		for i := range total {
			addr, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			n, ok := r.number(addr)
			if !ok || seen[addr] {
				t.Fatalf("%s: got %s again or outside", prefix, addr)
			}
			if inBand := n < r.numbers.band; inBand != (i >= total-r.numbers.band) {
				t.Fatalf("%s: address %d is %s", prefix, i, addr)
			}
			seen[addr] = true
		}
		_, err := r.Next()
		if !errors.Is(err, ErrFull) || err.Error() != "range is full: "+prefix {
			t.Errorf("a full range: %v", err)
		}
		want := r.address(r.numbers.size / 2)
		if !r.Release(want) || r.Release(want) || r.Taken(want) {
			t.Errorf("releasing %s", want)
		}
		if got, err := r.Next(); err != nil || got != want {
			t.Errorf("after releasing %s: %s, %v", want, got, err)
		}
	}
}

func TestRangeMark(t *testing.T) {
	r := mustRange(t, "10.96.0.0/12")
	addr := netip.MustParseAddr("::ffff:10.96.0.10")
	if fresh, err := r.Mark(addr); !fresh || err != nil {
		t.Errorf("first mark: %v, %v", fresh, err)
	}
	if fresh, err := r.Mark(addr.Unmap()); fresh || err != nil {
		t.Errorf("second mark: %v, %v", fresh, err)
	}
	var notInRange *NotInRangeError
	_, err := r.Mark(netip.MustParseAddr("1.1.1.1"))
	if want := "the provided IP (1.1.1.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12"; !errors.As(err, &notInRange) || err.Error() != want {
		t.Errorf("outside: %v", err)
	}
}

func TestRangeNth(t *testing.T) {
	for _, prefix := range []string{"10.96.0.0/28", "fd00:10:96::/124"} {
		r := mustRange(t, prefix)
		for n, want := range map[uint64]string{1: "1", 10: "10", 14: "14", 16: "", 0: ""} {
			addr, err := r.Nth(n)
			if (err == nil) != (want != "") || err == nil && fmt.Sprint(hostPart(addr)%16) != want {
				t.Errorf("%s: address %d is %s, %v", prefix, n, addr, err)
			}
		}
	}
}

// Addresses are spread over the whole upper part, so that servers with stale hints
// rarely meet.
func TestRangeStartsAnywhere(t *testing.T) {
	r := mustRange(t, "10.96.0.0/12")
	var quarters [4]int
	for range 4000 {
		addr, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		n, _ := r.number(addr)
		quarters[n/(1<<18)]++
	}
	for i, n := range quarters {
		if n < 850 || n > 1150 { // 5 standard deviations of 27
			t.Errorf("quarter %d got %d of 4000", i, n)
		}
	}
}

// ALLOC-04: concurrent requests never get the same one.
func TestRangeConcurrently(t *testing.T) {
	r, err := NewRange(netip.MustParsePrefix("10.96.0.0/20"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				addr, err := r.Next()
				mu.Lock()
				if err != nil || seen[addr] {
					t.Errorf("%s twice, or %v", addr, err)
				}
				seen[addr] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if r.Free() != 94 {
		t.Errorf("%d are free", r.Free())
	}
}

// ALLOC-02: the bands of node ports (KEP-3668).
func TestPortRangeBands(t *testing.T) {
	for _, tc := range []struct {
		first, last uint16
		dynamic     int32
	}{
		{30000, 32767, 30086},
		{30000, 30000, 30000},
		{30000, 30015, 30000},
		{30000, 30016, 30016},
		{30000, 30127, 30016},
		{1, 65535, 129},
	} {
		r, err := NewPortRange(tc.first, tc.last, nil)
		if err != nil {
			t.Fatal(err)
		}
		size := uint64(tc.last-tc.first) + 1
		lowest := int32(1 << 16)
		for range size - r.numbers.band {
			port, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			lowest = min(lowest, port)
		}
		if lowest != tc.dynamic {
			t.Errorf("%s: the upper part begins at %d, want %d", r, lowest, tc.dynamic)
		}
		for range r.numbers.band {
			if port, err := r.Next(); err != nil || port >= tc.dynamic {
				t.Errorf("%s: then came %d, %v", r, port, err)
			}
		}
		if _, err := r.Next(); !errors.Is(err, ErrFull) || r.Free() != 0 {
			t.Errorf("%s: a full range: %v", r, err)
		}
	}
}

func TestPortRangeWords(t *testing.T) {
	r, err := NewPortRange(30000, 32767, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []int32{29999, 32768, 0, -1, 95536} {
		_, err := r.Mark(port)
		if err == nil || err.Error() != "provided port is not in the valid range. The range of valid ports is 30000-32767" {
			t.Errorf("%d: %v", port, err)
		}
	}
	for _, s := range []string{"", "30000", "30000-", "-1", "2-1", "0-5", "30000-70000", "a-b", "1-2-3"} {
		if _, _, err := ParsePortRange(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
	first, last, err := ParsePortRange(" 30000 - 32767")
	if first != 30000 || last != 32767 || err != nil {
		t.Error(first, last, err)
	}
}

// nearlyFull gives a /12 with one address in a thousand free.
func nearlyFull(b *testing.B, prefix string) *Range {
	r := mustRange(b, prefix)
	for n := range r.numbers.size {
		if n%1000 != 999 {
			r.numbers.taken.add(n)
		}
	}
	return r
}

func BenchmarkNext(b *testing.B) {
	for _, tc := range []struct {
		name string
		r    *Range
	}{
		{"nearly full /12", nearlyFull(b, "10.96.0.0/12")},
		{"empty /12", mustRange(b, "10.96.0.0/12")},
		{"empty v6 /64", mustRange(b, "fd00:10:96::/64")},
	} {
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				addr, err := tc.r.Next()
				if err != nil {
					b.Fatal(err)
				}
				tc.r.Release(addr)
			}
		})
	}
	b.Run("last of a /12", func(b *testing.B) {
		r := mustRange(b, "10.96.0.0/12")
		for n := range r.numbers.size - 1 {
			r.numbers.taken.add(n)
		}
		b.ReportAllocs()
		for b.Loop() {
			addr, err := r.Next()
			if err != nil {
				b.Fatal(err)
			}
			r.Release(addr)
		}
	})
}

func FuzzParsePortRange(f *testing.F) {
	for _, s := range []string{"30000-32767", "1-65535", "0-1", "2-1", "1-65536", " 1 - 2 ", "-", "1-2-3", "+1-2", "1_0-20"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, err := ParsePortRange(s)
		if err != nil {
			return
		}
		r, err := NewPortRange(first, last, nil)
		if err != nil {
			t.Fatalf("%q was read as %d-%d: %v", s, first, last, err)
		}
		if a, b, err := ParsePortRange(r.String()); a != first || b != last || err != nil {
			t.Errorf("%q was read as %s, and that as %d-%d, %v", s, r, a, b, err)
		}
	})
}
