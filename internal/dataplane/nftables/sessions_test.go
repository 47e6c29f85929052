package nftables

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"strings"
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

// manyBackends are more than a byte can tell.
func manyBackends(n int) (out []routing.Backend) {
	for i := range n {
		at := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		out = append(out, routing.Backend{AddrPort: netip.AddrPortFrom(at, 80)})
	}
	return out
}

// DP-10: with affinity too every backend that routing gives a set has a slot, and packets
// draw from all of them. A restart finds nothing to change.
func TestAffinityOfMany(t *testing.T) {
	f := stickyPair(manyBackends(routing.MaxBackends), time.Hour)[0]
	k, kernel := newKernel(newFamilies(limits{})), model{}
	k.set(f)
	k.settle()
	kernel.apply(t, &k.now)
	to := map[string]bool{}
	for _, h := range kernel[setRef{0, sessionSlotsMap}] {
		to[h] = true
	}
	drawn, ok := parseCode(kernel[setRef{0, servicesMap}][string(frontendKey(f.Key))])
	if len(to) != routing.MaxBackends || !ok || drawn.count != routing.MaxBackends {
		t.Errorf("slots for %d backends, and %v draws", len(to), drawn)
	}
	k = newKernel(k.families)
	k.adopt(kernel.reading())
	k.claimSessions([]*routing.Frontend{f})
	k.set(f)
	k.settle()
	if n := k.now.count + k.later.count; n > 0 {
		t.Errorf("%d changes after a restart", n)
	}
}

// DP-20: planning a set with affinity costs each backend the same, however many there are.
func TestAffinityCost(t *testing.T) {
	bytesEach := func(n int) uint64 {
		f, k := stickyPair(manyBackends(n), time.Hour)[0], newKernel(newFamilies(limits{}))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		k.set(f)
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / uint64(n)
	}
	few, many := bytesEach(1000), bytesEach(4000)
	if t.Logf("%d and %d bytes for each backend", few, many); many > 2*few {
		t.Errorf("of 1,000 each costs %d bytes, of 4,000 each %d", few, many)
	}
}

// DP-10: a frontend for which there is no session left is served without affinity, and
// the log says so once.
func TestSessionsRunOut(t *testing.T) {
	k := newKernel(newFamilies(limits{}))
	for id := range maxSessions {
		k.sessions[0].withID(uint16(id + 1)).frontends = 1
	}
	var log bytes.Buffer
	b := &Backend{families: k.families, log: slog.New(slog.NewTextHandler(&log, nil))}
	b.tellWithout(k)
	if log.Len() > 0 {
		t.Errorf("nobody wanted more sessions: %s", log.String())
	}
	for _, f := range stickyPair(backends(1, 2), time.Hour) {
		k.set(f)
		if h := k.held[f.Key]; h.inside.count != 2 || h.inside.affinity != 0 || len(h.cluster) != 2 {
			t.Errorf("%s: %v with slots %v", f.Key, h.inside, h.cluster)
		}
		b.tellWithout(k)
	}
	if n := strings.Count(log.String(), "go without session affinity"); n != 1 {
		t.Errorf("told %d times: %s", n, log.String())
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
