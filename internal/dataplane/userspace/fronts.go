package userspace

import (
	"hash/fnv"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// front is one frontend.
type front struct {
	mu       sync.Mutex // guards the following
	frontend *routing.Frontend

	turn *turn     // set once
	udp  *udpProxy // where a rule leads UDP to; else nil; set once
}

func (f *front) get() *routing.Frontend {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frontend
}

func (f *front) set(to *routing.Frontend) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frontend = to
}

// choices gives the backends for a new connection of client, in the order in which they are
// to be tried. None says that it isn't served.
func (f *front) choices(client netip.Addr, from routing.Origin, now time.Time) []netip.AddrPort {
	frontend := f.get()
	action := frontend.Verdicts[from].Action
	set := frontend.Of(action)
	if len(set) == 0 {
		return nil
	}
	first := f.turn.first(client, action, set, frontend.Affinity > 0, now)
	out := make([]netip.AddrPort, 0, min(len(set), tries))
	for i := range cap(out) {
		out = append(out, set[(first+i)%len(set)].AddrPort)
	}
	return out
}

// remember notes where a client went, for affinity.
func (f *front) remember(client netip.Addr, backend netip.AddrPort, now time.Time) {
	f.turn.remember(client, backend, f.get().Affinity, now)
}

// port is what shares a turn: a Service's port in one family, by whichever of its
// addresses clients come (DP-10).
type port struct {
	service  types.NamespacedName
	name     string
	protocol catalog.Protocol
	ipv6     bool
}

func portOf(f *routing.Frontend) port {
	return port{f.Service, f.PortName, f.Protocol, f.Addr.Is6()}
}

// turn is whose turn it is, and where affinity leads.
type turn struct {
	users int // fronts; guarded by Backend.mu
	meter meter

	mu     sync.Mutex // guards the following
	next   [2]uint32  // counts choices from the cluster set and the local one: round robin
	sticky map[netip.Addr]stick
	swept  time.Time // when sticky was last rid of what is over
}

// stick is where session affinity leads a client.
type stick struct {
	backend netip.AddrPort
	until   time.Time
}

// first gives the index of the backend that a client is to meet: with affinity the one that
// it met before or that it prefers, else the next in turn.
func (t *turn) first(client netip.Addr, action routing.Action, set []routing.Backend, sticky bool, now time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !sticky {
		t.sticky = nil // nothing of before counts when it is switched on again
		next := &t.next[0]
		if action == routing.ToLocal { // or clients by turns from here and outside would meet every other one
			next = &t.next[1]
		}
		*next++
		return int((*next - 1) % uint32(len(set)))
	}
	if s, ok := t.sticky[client]; ok && now.Before(s.until) {
		for i := range set {
			if set[i].AddrPort == s.backend {
				return i
			}
		}
	}
	return preferred(client, set)
}

// preferred gives the index of the backend with the highest hash with a client (rendezvous
// hashing): every run of the program prefers the same, so that affinity outlives this one.
func preferred(client netip.Addr, set []routing.Backend) (best int) {
	var highest uint64
	for i := range set {
		h := fnv.New64a()
		b, _ := set[i].MarshalBinary()
		_, _ = h.Write(append(b, client.AsSlice()...))
		// FNV mixes its last bytes badly into the high bits (finalizer of MurmurHash3).
		x := h.Sum64()
		x = (x ^ x>>33) * 0xff51afd7ed558ccd
		x ^= x >> 33
		if i == 0 || x > highest {
			best, highest = i, x
		}
	}
	return best
}

func (t *turn) remember(client netip.Addr, backend netip.AddrPort, affinity time.Duration, now time.Time) {
	if affinity == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sticky == nil {
		t.sticky = map[netip.Addr]stick{}
	}
	if now.Sub(t.swept) > affinity {
		t.swept = now
		for c, s := range t.sticky {
			if !now.Before(s.until) {
				delete(t.sticky, c)
			}
		}
	}
	if _, known := t.sticky[client]; !known && len(t.sticky) >= maxSticky {
		for c := range t.sticky {
			delete(t.sticky, c)
			break
		}
	}
	t.sticky[client] = stick{backend, now.Add(affinity)}
}

// maxSticky bounds what made-up clients of UDP can fill. Who is forgotten meets the backend
// that it prefers, which it nearly always met before.
const maxSticky = 1 << 16

// tries bounds how many backends a connection is offered to.
const tries = 5

// uses tells whether a flow to backend may go on: not when that has stopped serving and
// another serves (DP-13).
func uses(f *routing.Frontend, backend netip.AddrPort) bool {
	known, others := false, false
	for b := range f.Backends() {
		if b.AddrPort == backend {
			if b.Serving {
				return true
			}
			known = true
		}
	}
	for _, v := range f.Verdicts {
		others = others || len(f.Of(v.Action)) > 0
	}
	return known && !others
}
