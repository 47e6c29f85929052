package nftables

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"portico.dev/portico/internal/core/routing"
)

// stickyPair is two frontends of one Service port, with affinity or without.
func stickyPair(b []routing.Backend, affinity time.Duration) []*routing.Frontend {
	ip, port := frontend(b), frontend(b)
	port.Addr, port.Kind, port.Sets = netip.IPv4Unspecified(), routing.NodePort, ip.Sets
	ip.Affinity, port.Affinity = affinity, affinity
	return []*routing.Frontend{ip, port}
}

// reading gives what a dump of the model would show.
func (m model) reading() *reading {
	var r reading
	for i := range r {
		r[i] = tableReading{elements: map[string][]element{}, chains: map[string][]byte{}}
	}
	for ref, elements := range m {
		for key, data := range elements {
			r[ref.family].elements[ref.name] = append(r[ref.family].elements[ref.name], element{key: key, data: data})
			if t, ok := parseCode(key); ref.name == choicesMap && ok {
				r[ref.family].chains[t.chain()] = []byte{}
			}
		}
	}
	return &r
}

// DP-10: whatever set follows whatever other, affinity being switched now and then,
// every slot that a packet can draw leads to a live backend of the new set
// already before the second transaction; a backend that stays keeps its handle; and
// a restart plans no change of sessions.
func TestSessionsSurviveChanges(t *testing.T) {
	families := newFamilies(limits{})
	k, kernel := newKernel(families), model{}
	commit := func() {
		kernel.apply(t, &k.now)
		kernel.apply(t, &k.later)
		k.changes = changes{}
	}
	handles := map[string]string{} // by backend
	for step := range 1000 {
		var pick []int
		for i := range 9 {
			if rand.IntN(2) == 0 {
				pick = append(pick, i)
			}
		}
		affinity := time.Hour
		if step%10 == 9 {
			affinity = 0
		}
		pair := stickyPair(backends(pick...), affinity)
		if step%7 == 6 { // a restart, and one frontend is new
			k = newKernel(families)
			k.adopt(kernel.reading())
			k.claimSessions(pair)
			pair[0], pair[1] = pair[1], pair[0]
		}
		for _, f := range pair {
			k.set(f)
		}
		k.settle()
		kernel.apply(t, &k.now)
		live := kernel[setRef{0, sessionLiveSet}]
		where := map[string]string{}
		for key, data := range kernel[setRef{0, sessionBackendsMap}] {
			where[key[:4]] = data
		}
		if affinity > 0 && len(pick) > 0 {
			for _, h := range kernel[setRef{0, sessionSlotsMap}] {
				if _, ok := live[h]; !ok || where[h] == "" {
					t.Fatalf("step %d: a slot leads to handle %x: live %v, backend %x", step, h, ok, where[h])
				}
			}
		}
		kernel.apply(t, &k.later)
		k.changes = changes{}
		where = map[string]string{}
		for key, data := range kernel[setRef{0, sessionBackendsMap}] {
			where[key[:4]] = data
		}
		now := map[string]string{}
		for h, b := range where {
			now[b] = h
			if old, ok := handles[b]; ok && old != h {
				t.Fatalf("step %d: backend %x had handle %x, now %x", step, b, old, h)
			}
		}
		handles = now
		want := len(pick)
		if affinity == 0 {
			want = 0
		}
		if len(where) != want || len(kernel[setRef{0, sessionSlotsMap}]) != want || len(live) != want {
			t.Fatalf("step %d: %d backends, %d slots, %d alive, want %d", step, len(where), len(kernel[setRef{0, sessionSlotsMap}]), len(live), want)
		}
		if want > 0 && kernel[setRef{0, clusterSessionsMap}][string(frontendKey(pair[0].Key))] != "" && len(kernel[setRef{0, clusterSessionsMap}])+len(kernel[setRef{0, nodeClusterSessionsMap}]) != 2 {
			t.Fatalf("step %d: not both frontends lead to a session", step)
		}
	}
	for _, f := range stickyPair(nil, 0) {
		k.remove(f.Key)
	}
	k.settle()
	commit()
	for ref, m := range kernel {
		if len(m) > 0 && ref.name != choicesMap {
			t.Errorf("%v keeps %d elements of nobody", ref, len(m))
		}
	}
}

// Numbers run out only when all are taken.
func TestFreeNumber(t *testing.T) {
	next, taken := uint16(65530), map[uint16]bool{}
	for range 1<<16 - 1 {
		n, ok := freeNumber(&next, func(n uint16) bool { return taken[n] })
		if !ok || n == 0 || taken[n] {
			t.Fatalf("got %d, %v", n, ok)
		}
		taken[n] = true
	}
	if n, ok := freeNumber(&next, func(n uint16) bool { return taken[n] }); ok {
		t.Errorf("got %d when all are taken", n)
	}
}
