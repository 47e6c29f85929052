package userspace

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

var (
	x, y, z = netip.MustParseAddrPort("10.245.0.2:80"), netip.MustParseAddrPort("10.245.0.3:80"), netip.MustParseAddrPort("10.245.0.4:80")
	start   = time.Unix(1e9, 0)
)

func backendsAt(all ...netip.AddrPort) (out []routing.Backend) {
	for _, a := range all {
		out = append(out, routing.Backend{AddrPort: a, Ready: true, Serving: true})
	}
	return out
}

func frontOf(affinity time.Duration, cluster ...netip.AddrPort) *front {
	f := &routing.Frontend{
		Key:     routing.Key{Addr: netip.MustParseAddr("10.96.0.20"), Protocol: catalog.TCP, Port: 80},
		Service: types.NamespacedName{Namespace: "default", Name: "web"},
		Sets:    &routing.Sets{Cluster: backendsAt(cluster...)}, Affinity: affinity,
	}
	return &front{frontend: f, turn: &turn{}}
}

// DP-02: every backend gets the same number of connections, and a connection that one
// doesn't take is offered to the next, to each once.
func TestTurns(t *testing.T) {
	f := frontOf(0, x, y, z)
	first := map[netip.AddrPort]int{}
	for range 300 {
		c := f.choices(netip.MustParseAddr("192.0.2.9"), routing.Outside, start)
		first[c[0]]++
		slices.SortFunc(c, netip.AddrPort.Compare)
		if !slices.Equal(c, []netip.AddrPort{x, y, z}) {
			t.Fatalf("choices %v, want each backend once", c)
		}
	}
	for _, a := range []netip.AddrPort{x, y, z} {
		if first[a] != 100 {
			t.Errorf("%s was first %d times of 300, want 100", a, first[a])
		}
	}
}

// DP-10: affinity leads a client to its backend until the time is over or the backend is
// gone; a client that nobody remembers prefers the same one in every run.
func TestAffinity(t *testing.T) {
	f := frontOf(time.Hour, x, y, z)
	client := netip.MustParseAddr("192.0.2.9")
	choose := func(f *front, now time.Time) netip.AddrPort { return f.choices(client, routing.Outside, now)[0] }
	preferred := choose(f, start)
	if again := choose(frontOf(time.Hour, z, y, x), start); again != preferred {
		t.Errorf("another run prefers %s, this one %s", again, preferred)
	}
	other := x
	if preferred == x {
		other = y
	}
	f.remember(client, other, start)
	for after, want := range map[time.Duration]netip.AddrPort{time.Minute: other, time.Hour - 1: other, time.Hour: preferred} {
		if got := choose(f, start.Add(after)); got != want {
			t.Errorf("after %s: %s, want %s", after, got, want)
		}
	}
	f.set(frontOf(time.Hour, slices.DeleteFunc([]netip.AddrPort{x, y, z}, func(a netip.AddrPort) bool { return a == other })...).frontend)
	if got := choose(f, start.Add(time.Minute)); got == other {
		t.Errorf("%s is gone and is met", got)
	}
	f.set(frontOf(0, x, y, z).frontend)
	choose(f, start)
	f.set(frontOf(time.Hour, x, y, z).frontend)
	if got := choose(f, start.Add(time.Minute)); got != preferred {
		t.Errorf("what was remembered before affinity was switched off counts: %s", got)
	}
	f.remember(client, x, start)
	f.remember(netip.MustParseAddr("192.0.2.10"), x, start.Add(3*time.Hour))
	if n := len(f.turn.sticky); n != 1 {
		t.Errorf("%d clients are remembered, want the one whose time isn't over", n)
	}
}

// How clients spread by what they prefer: none of three backends gets less than a quarter
// of ten thousand.
func TestPreferredSpreads(t *testing.T) {
	set, count := backendsAt(x, y, z), map[int]int{}
	for i := range 10_000 {
		count[preferred(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), set)]++
	}
	for i := range set {
		if count[i] < 2500 {
			t.Errorf("backend %d is preferred by %d of 10000", i, count[i])
		}
	}
}

// DP-13: a UDP flow stays while its backend serves, or when nobody else does.
func TestUses(t *testing.T) {
	left := func(serving bool) []routing.LeftOut {
		return []routing.LeftOut{{Backend: routing.Backend{AddrPort: x, Serving: serving, Terminating: true}}}
	}
	for what, c := range map[string]struct {
		sets routing.Sets
		want bool
	}{
		"chosen":                             {routing.Sets{Cluster: backendsAt(x, y)}, true},
		"terminating and serving":            {routing.Sets{Cluster: backendsAt(y), LeftOut: left(true)}, true},
		"not serving, another serves":        {routing.Sets{Cluster: backendsAt(y), LeftOut: left(false)}, false},
		"not serving, as all others":         {routing.Sets{LeftOut: left(false)}, true},
		"gone":                               {routing.Sets{Cluster: backendsAt(y)}, false},
		"gone, with the last one of its set": {routing.Sets{}, false},
	} {
		f := frontOf(0).frontend
		f.Sets = &c.sets
		if got := uses(f, x); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// DP-02: turns are even whoever takes them at once, and each of the two sets has its own:
// clients that come by turns from here and from outside don't meet every other backend.
func TestTurnsAtOnce(t *testing.T) {
	f := frontOf(0, x, y, z)
	f.frontend.Local = backendsAt(x, y)
	f.frontend.Verdicts[routing.Outside].Action = routing.ToLocal
	client := netip.MustParseAddr("192.0.2.9")
	local := map[netip.AddrPort]int{}
	for range 100 {
		f.choices(client, routing.Node, start)
		local[f.choices(client, routing.Outside, start)[0]]++
	}
	if local[x] != 50 || local[y] != 50 {
		t.Errorf("from outside, by turns with the node: %v", local)
	}
	const goroutines, each = 8, 3000
	var group sync.WaitGroup
	var mu sync.Mutex // guards the following
	sum := map[netip.AddrPort]int{}
	for range goroutines {
		group.Go(func() {
			mine := map[netip.AddrPort]int{}
			for range each {
				mine[f.choices(client, routing.Node, start)[0]]++
			}
			mu.Lock()
			defer mu.Unlock()
			for a, n := range mine {
				sum[a] += n
			}
		})
	}
	group.Wait()
	for _, a := range []netip.AddrPort{x, y, z} {
		if sum[a] != goroutines*each/3 {
			t.Errorf("%s was met %d times of %d", a, sum[a], goroutines*each)
		}
	}
}

// A flood of clients doesn't fill the memory, and a new connection renews affinity (DP-10).
func TestAffinityIsBounded(t *testing.T) {
	f := frontOf(time.Hour, x, y, z)
	for i := range maxSticky + 100 {
		f.remember(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), x, start)
	}
	if n := len(f.turn.sticky); n != maxSticky {
		t.Errorf("%d clients are remembered, want %d at most", n, maxSticky)
	}
	client := netip.MustParseAddr("192.0.2.9")
	other := y
	if f.choices(client, routing.Outside, start)[0] == y {
		other = x
	}
	f.remember(client, other, start)
	f.remember(client, other, start.Add(50*time.Minute))
	if got := f.choices(client, routing.Outside, start.Add(100*time.Minute))[0]; got != other {
		t.Errorf("after 100 minutes, the last connection 50 minutes ago: %s, want %s", got, other)
	}
}
