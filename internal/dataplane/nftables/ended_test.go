package nftables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// endedWorld plans changes of TCP frontends and carries them out on a model.
type endedWorld struct {
	t *testing.T
	k *kernel
	m model
}

func (w *endedWorld) change(fs ...*routing.Frontend) {
	w.t.Helper()
	for _, f := range fs {
		w.k.set(f)
	}
	w.k.settle()
	w.m.apply(w.t, &w.k.now)
	w.m.apply(w.t, &w.k.later)
	w.k.changes = changes{}
}

func (w *endedWorld) want(ended ...string) {
	w.t.Helper()
	var got []string
	for key := range w.m[setRef{0, endedSet}] {
		e, ok := w.k.families[0].parseEnded(key)
		got = append(got, fmt.Sprintf("%s %s %t", e.used, e.backend, ok))
	}
	slices.Sort(got)
	slices.Sort(ended)
	if !slices.Equal(got, ended) {
		w.t.Errorf("the kernel has %q, want %q", got, ended)
	}
}

// at gives a frontend; "-" before a backend says that it terminates, "x" that it is
// left out and doesn't serve.
func at(addr string, backends ...string) *routing.Frontend {
	f := &routing.Frontend{Key: routing.Key{Addr: netip.MustParseAddr(addr), Protocol: catalog.TCP, Port: 80}, Sets: &routing.Sets{}}
	for _, s := range backends {
		b := routing.Backend{Local: true, Ready: s[0] != '-' && s[0] != 'x', Serving: s[0] != 'x', Terminating: s[0] == '-'}
		if !b.Ready {
			s = s[1:]
		}
		b.AddrPort = netip.MustParseAddrPort(s)
		if b.Ready {
			f.Cluster = append(f.Cluster, b)
		} else {
			f.LeftOut = append(f.LeftOut, routing.LeftOut{Backend: b})
		}
	}
	return f
}

// DP-11, DP-16: which backends are gone.
func TestEnded(t *testing.T) {
	const x, y, z = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
	w := &endedWorld{t, newKernel(newFamilies(limits{})), model{}}
	w.k.setNodeAddresses([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
	w.change(at("10.96.0.1", x, y, z), at("0.0.0.0", x, y, z), at("10.96.0.2", x))
	w.change(at("10.96.0.1", y, z, "-"+x), at("0.0.0.0", y, z, "-"+x))
	w.want() // it serves
	w.change(at("10.96.0.1", z), at("0.0.0.0", z))
	w.want() // y left without having terminated, x is in use elsewhere
	w.change(at("10.96.0.2", z))
	w.want("10.96.0.1 "+x+" true", "192.0.2.1 "+x+" true")
	w.change(at("10.96.0.1", z, "x"+x))
	w.want("192.0.2.1 " + x + " true") // a new pod that isn't ready
	w.change(at("0.0.0.0", x, z))
	w.want()
	// Nothing is left of an address that no Service has any more.
	w.change(at("10.96.0.1", "-"+y))
	w.change(at("10.96.0.1"))
	w.want("10.96.0.1 " + y + " true")
	w.k.remove(at("10.96.0.1").Key)
	w.change()
	w.want()
}

// The rule that each packet meets is there only while the set has something, and what is
// in it is forgotten after some time.
func TestEndedExpire(t *testing.T) {
	const x, y = "10.0.0.1:80", "10.0.0.2:80"
	w := &endedWorld{t, newKernel(newFamilies(limits{})), model{}}
	begun := time.Unix(1000, 0)
	step := func(after time.Duration, resets bool, fs ...*routing.Frontend) {
		t.Helper()
		w.k.time = begun.Add(after)
		w.change(fs...)
		was := w.k.families[0].resets
		if changed := len(w.k.answerEnded()) > 0; changed != (was != resets) {
			t.Errorf("after %v: the rule changed: %t", after, changed)
		}
		if got := w.k.families[0].resets; got != resets {
			t.Errorf("after %v: the rule is there: %t", after, got)
		}
	}
	step(0, false, at("10.96.0.1", x, y))
	step(0, false, at("10.96.0.1", y, "-"+x))
	step(time.Second, true, at("10.96.0.1", y))
	w.want("10.96.0.1 " + x + " true")
	step(endedLife, true, at("10.96.0.9", y))
	w.want("10.96.0.1 " + x + " true")
	step(endedLife+2*time.Second, false, at("10.96.0.8", y))
	w.want()
}

// The set has a limit; the oldest go.
func TestEndedLimit(t *testing.T) {
	w := &endedWorld{t, newKernel(newFamilies(limits{})), model{}}
	backend := func(i int) string { return fmt.Sprintf("10.%d.%d.%d:80", i>>16&255, i>>8&255, i&255) }
	many := func(mark string, from, n int) (out []string) {
		for i := range n {
			out = append(out, mark+backend(from+i))
		}
		return out
	}
	for _, step := range []struct{ from, n, want int }{{0, 5000, 5000}, {5000, 5000, maxEnded}, {10000, 2 * maxEnded, maxEnded}} {
		w.change(at("10.96.0.1", many("-", step.from, step.n)...))
		w.change(at("10.96.0.1"))
		if n := len(w.m[setRef{0, endedSet}]); n != step.want {
			t.Errorf("%d ended backends, want %d", n, step.want)
		}
	}
	if _, old := w.k.ends[0].by[netip.MustParseAddr("10.96.0.1")][netip.MustParseAddrPort(backend(0))]; old {
		t.Error("the oldest is still there")
	}
	// An adopted set gives the same state.
	k := newKernel(w.k.families)
	var r reading
	r[0].elements = map[string][]element{}
	for key := range maps.Keys(w.m[setRef{0, endedSet}]) {
		r[0].elements[endedSet] = append(r[0].elements[endedSet], element{key: key})
	}
	r[0].elements[endedSet] = append(r[0].elements[endedSet], element{key: "nonsense"})
	k.adoptEnded(0, &r[0])
	if k.ends[0].held != maxEnded || k.now.count != 1 {
		t.Errorf("adopted %d, planned %d changes", k.ends[0].held, k.now.count)
	}
}
