package nftables

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// model carries planned changes out on maps, as the kernel would.
type model map[setRef]map[string]string

func (m model) apply(t *testing.T, e *elements) {
	t.Helper()
	for _, ref := range e.order {
		if m[ref] == nil {
			m[ref] = map[string]string{}
		}
		for _, el := range e.sets[ref].del {
			if _, ok := m[ref][el.key]; !ok {
				t.Fatalf("%v: deletes what isn't there", ref)
			}
			delete(m[ref], el.key)
		}
		for _, el := range e.sets[ref].add {
			if _, ok := m[ref][el.key]; ok {
				t.Fatalf("%v: adds what is there", ref)
			}
			m[ref][el.key] = el.data
		}
	}
}

func backends(n ...int) (out []routing.Backend) {
	for _, i := range n {
		out = append(out, routing.Backend{AddrPort: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80), Local: i%2 == 0})
	}
	return out
}

func frontend(b []routing.Backend) *routing.Frontend {
	f := &routing.Frontend{
		Key:  routing.Key{Addr: netip.MustParseAddr("10.96.0.1"), Protocol: catalog.TCP, Port: 80},
		Sets: &routing.Sets{Cluster: b},
	}
	if len(b) == 0 {
		for i := range f.Verdicts {
			f.Verdicts[i].Action = routing.Reject
		}
	}
	return f
}

// Whatever set follows whatever other: between the first transaction and the
// second every slot that the old or the new number of backends can draw holds a
// backend of the new set, and afterwards exactly the new set is there.
func TestSlotsAreNeverEmptyNorDead(t *testing.T) {
	families := newFamilies(limits{})
	k, kernel := newKernel(families), model{}
	ref := setRef{0, clusterBackendsMap}
	old := 0
	for range 2000 {
		var pick []int
		for i := range 9 {
			if rand.IntN(2) == 0 {
				pick = append(pick, i)
			}
		}
		want := backends(pick...)
		k.set(frontend(want))
		k.settle()
		kernel.apply(t, &k.now)
		live := map[string]bool{}
		for _, b := range want {
			live[backendData(b.AddrPort)] = true
		}
		if len(want) > 0 {
			for slot := range max(old, len(want)) {
				if data := kernel[ref][slotKey(frontendKey(frontend(nil).Key), slot)]; !live[data] {
					t.Fatalf("%d backends after %d: slot %d holds %x", len(want), old, slot, data)
				}
			}
		}
		kernel.apply(t, &k.later)
		k.changes = changes{}
		seen := map[string]bool{}
		for _, data := range kernel[ref] {
			seen[data] = true
		}
		if len(kernel[ref]) != len(want) || len(seen) != len(want) {
			t.Fatalf("%d slots with %d backends for %d", len(kernel[ref]), len(seen), len(want))
		}
		old = len(want)
	}
	k.remove(frontend(nil).Key)
	k.settle()
	kernel.apply(t, &k.now)
	kernel.apply(t, &k.later)
	for ref, m := range kernel {
		if len(m) > 0 && ref.name != choicesMap {
			t.Errorf("%v keeps %d elements of nobody", ref, len(m))
		}
	}
}

// One backend more or less among many changes few slots.
func TestAssignKeepsSlots(t *testing.T) {
	all := addrPorts(backends(1, 2, 3, 4, 5, 6, 7, 8))
	have := assign(nil, all)
	less := slices.Delete(slices.Clone(all), 2, 3)
	next := assign(have, less)
	moved := 0
	for i := range next {
		if next[i] != have[i] {
			moved++
		}
	}
	if moved != 1 {
		t.Errorf("%d slots changed for one backend less", moved)
	}
}

// Few slots are assigned as many are.
func TestAssignFew(t *testing.T) {
	for range 1000 {
		have, want := rand.Perm(20)[:rand.IntN(fewSlots+1)], rand.Perm(20)[:1+rand.IntN(fewSlots)]
		for _, s := range [][]int{have, want} {
			for i := range s {
				s[i]++ // zero is no slot's
			}
		}
		few, many := assignFew(have, want), assignMany(have, want)
		if !slices.Equal(few, many) {
			t.Fatalf("%v to %v: %v, with a map %v", have, want, few, many)
		}
	}
}

func TestTargetsOfVerdicts(t *testing.T) {
	b := backends(1, 2, 3)
	sets := &routing.Sets{Cluster: b, Local: b[1:2]}
	to := func(a routing.Action) routing.Verdict { return routing.Verdict{Action: a} }
	for _, c := range []struct {
		workload, outside routing.Action
		want              string
	}{
		{routing.ToCluster, routing.ToCluster, "cluster-3 - 0"},
		{routing.ToCluster, routing.ToLocal, "cluster-3 local-1 0"},
		{routing.ToCluster, routing.Drop, "cluster-3 leave 2"},
		{routing.ToLocal, routing.ToLocal, "local-1 - 0"},
		{routing.Reject, routing.Reject, "- - 1"},
		{routing.Drop, routing.Drop, "- - 2"},
	} {
		f := &routing.Frontend{Key: routing.Key{Addr: netip.MustParseAddr("10.96.0.1")}, Sets: sets, Verdicts: [3]routing.Verdict{to(c.workload), to(c.workload), to(c.outside)}}
		in, out, refused := targets(f)
		show := func(t target) string {
			if t.kind == nowhere {
				return "-"
			}
			return t.chain()
		}
		if got := fmt.Sprintf("%s %s %d", show(in), show(out), refused); got != c.want {
			t.Errorf("%v, outside %v: %s, want %s", c.workload, c.outside, got, c.want)
		}
	}
}

func TestTargetsSurviveTheKernel(t *testing.T) {
	for _, d := range []target{{kind: cluster, count: 1}, {kind: local, count: 65}, {kind: nodeCluster, count: 40000}, {kind: nodeLocal, count: 3}, {kind: leave}, {kind: nodeLocal, count: 4095, affinity: 86400}, {kind: cluster, count: 1, affinity: 1}} {
		if got, ok := parseCode(d.code()); !ok || got != d {
			t.Errorf("%v came back as %v", d, got)
		}
		if got, ok := drawTarget(d.chain()); d.kind != leave && (!ok || got != d) {
			t.Errorf("chain %s came back as %v", d.chain(), got)
		}
	}
	for _, name := range []string{"", "-", "cluster-", "cluster-0", "cluster-03", "cluster--3", "serve", "3"} {
		if d, ok := drawTarget(name); ok {
			t.Errorf("%q is taken for %v", name, d)
		}
	}
}

// Interval sets must not overlap nor touch.
func TestRangeElements(t *testing.T) {
	for in, want := range map[string]string{
		"10.244.0.0/16 10.245.0.0/16":         "10.244.0.0-10.246.0.0",
		"10.0.0.0/8 10.245.0.0/16":            "10.0.0.0-11.0.0.0",
		"10.0.1.0/24 10.0.0.0/24 10.9.0.0/16": "10.0.0.0-10.0.2.0 10.9.0.0-10.10.0.0",
		"255.0.0.0/8":                         "255.0.0.0-",
		"0.0.0.0/0 10.0.0.0/8":                "0.0.0.0-",
		"fd00::/64":                           "",
	} {
		var ps []netip.Prefix
		for _, p := range strings.Fields(in) {
			ps = append(ps, netip.MustParsePrefix(p))
		}
		got := ""
		for _, e := range rangeElements(ps, false) {
			a, _ := netip.AddrFromSlice([]byte(e.key))
			if e.end {
				got += a.String()
			} else {
				got += " " + a.String() + "-"
			}
		}
		if got = strings.TrimSpace(got); got != want {
			t.Errorf("%s: got %q, want %q", in, got, want)
		}
	}
}
