package dataplane

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"
)

// DP-02: 10,000 connections spread evenly over any number of backends. 65 is
// where tables of a power of two are uneven.
func TestSpread(t *testing.T) {
	w := newWorld(t)
	w.replace()
	for _, c := range []struct {
		n  int
		v6 bool
	}{{3, false}, {65, true}, {96, false}, {96, true}} {
		n := c.n
		t.Run(fmt.Sprintf("%d, IPv6 %v", n, c.v6), func(t *testing.T) {
			web := service{name: fmt.Sprint("web", n), ip: pair("10.96.1."+fmt.Sprint(n), "fd00:10:96::1:"+fmt.Sprint(n)), port: 80}
			for i := range n {
				e := onNode(guestA, uint16(10000+100*n+i))
				w.a.ServeTCP(t, e.addr(c.v6))
				web.endpoints = append(web.endpoints, e)
			}
			w.update(web.view())
			count := askMany(t, w, web.ip.port(c.v6, 80), 10000)
			if len(count) != n {
				t.Errorf("%d of %d backends answered", len(count), n)
			}
			x, limit := chiSquare(count, n, 10000), chiSquareLimit(n-1)
			t.Logf("chi-square %.1f, limit %.1f", x, limit)
			if x > limit {
				t.Errorf("uneven: chi-square %.1f is over %.1f: %v", x, limit, count)
			}
		})
	}
}

// askMany makes connections from two clients at once.
func askMany(t *testing.T, w *world, to netip.AddrPort, n int) map[netip.AddrPort]int {
	t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	sum := map[netip.AddrPort]int{}
	for range 2 {
		group.Go(func() {
			count, err := w.b.AskTimes("tcp", to, n/2)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for a, c := range count {
				sum[a] += c
			}
		})
	}
	group.Wait()
	return sum
}

func chiSquare(count map[netip.AddrPort]int, classes, total int) float64 {
	expected := float64(total) / float64(classes)
	x := float64(classes-len(count)) * expected
	for _, c := range count {
		d := float64(c) - expected
		x += d * d / expected
	}
	return x
}

// chiSquareLimit is the value that an even spread passes once in 100,000 runs
// (Wilson and Hilferty's approximation; 4.265 is that quantile of the normal
// distribution).
func chiSquareLimit(freedom int) float64 {
	k := float64(freedom)
	return k * math.Pow(1-2/(9*k)+4.265*math.Sqrt(2/(9*k)), 3)
}
