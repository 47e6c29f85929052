package routing

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// frontends builds one TCP frontend for each port of a Service's address.
func frontends(name string, age int, ports ...uint16) []Frontend {
	var out []Frontend
	for _, p := range ports {
		out = append(out, Frontend{
			Key:     Key{Addr: netip.MustParseAddr("192.0.2.1"), Protocol: catalog.TCP, Port: p},
			Service: types.NamespacedName{Namespace: "default", Name: name}, UID: types.UID(name),
			Created: day.Add(-time.Duration(age) * time.Hour), Sets: &Sets{},
		})
	}
	return out
}

func describe(c Change) string {
	s := ""
	for _, f := range c.Set {
		s += fmt.Sprintf("+%s:%d ", f.Service.Name, f.Port)
	}
	for _, k := range c.Removed {
		s += fmt.Sprintf("-%d ", k.Port)
	}
	return s
}

// Of two Services that claim one frontend the older has it, in whatever order
// they appear, and when it goes the other takes over.
func TestOlderServiceHasTheKey(t *testing.T) {
	young, old := types.NamespacedName{Namespace: "default", Name: "young"}, types.NamespacedName{Namespace: "default", Name: "old"}
	table := NewTable()
	for i, step := range []struct {
		name  types.NamespacedName
		f     []Frontend
		want  string
		loser string
	}{
		{young, frontends("young", 1, 80, 81), "+young:80 +young:81 ", ""},
		{young, frontends("young", 1, 80, 81), "", ""},
		{old, frontends("old", 2, 80), "+old:80 ", "young"},
		{young, frontends("young", 1, 80), "-81 ", "young"},
		{old, nil, "+young:80 ", ""},
		{old, frontends("old", 2, 80, 82), "+old:80 +old:82 ", "young"},
		{young, nil, "", ""},
		{old, frontends("old", 2, 82), "-80 ", ""},
		{old, nil, "-82 ", ""},
	} {
		if got := describe(table.Put(step.name, step.f)); got != step.want {
			t.Errorf("step %d: change %q, want %q", i, got, step.want)
		}
		loser := ""
		for _, name := range []types.NamespacedName{young, old} {
			for _, f := range table.Claims(name) {
				if table.Get(f.Key).Service != name {
					loser += name.Name
				}
			}
		}
		if loser != step.loser {
			t.Errorf("step %d: loser %q, want %q", i, loser, step.loser)
		}
	}
	if table.Len() != 0 {
		t.Errorf("%d frontends remain", table.Len())
	}
}

// Who has a key doesn't depend on who asks: first a cluster IP, then age, UID, name.
func TestBeforeIsTheSameEverywhere(t *testing.T) {
	ip := func(f Frontend, k Kind) *Frontend { f.Kind = k; return &f }
	a, b, older := frontends("a", 1, 80)[0], frontends("b", 1, 80)[0], frontends("z", 2, 80)[0]
	twin := a
	twin.Service.Namespace = "shop"
	for _, tt := range []struct {
		name          string
		first, second *Frontend
	}{
		{"of the same second, by UID", ip(a, ExternalIP), ip(b, ExternalIP)},
		{"the same UID, by name", ip(a, ExternalIP), ip(twin, ExternalIP)},
		{"the older", ip(older, NodePort), ip(a, NodePort)},
		{"a cluster IP before an older external IP", ip(a, ClusterIP), ip(older, ExternalIP)},
		{"the older of two cluster IPs", ip(older, ClusterIP), ip(a, ClusterIP)},
	} {
		if !tt.first.Before(tt.second) || tt.second.Before(tt.first) {
			t.Errorf("%s: not so", tt.name)
		}
	}
}

// A change is told by value: equal frontends are none, whatever memory they are in.
func TestPutComparesValues(t *testing.T) {
	name := types.NamespacedName{Namespace: "default", Name: "a"}
	table := NewTable()
	table.Put(name, frontends("a", 1, 80, 81))
	next := frontends("a", 1, 80, 81)
	if c := table.Put(name, next); !c.Empty() || table.Get(next[0].Key) != &next[0] {
		t.Errorf("equal values: change %q, or the old ones are held", describe(c))
	}
	next = frontends("a", 1, 80, 81)
	next[1].Sets = &Sets{Cluster: []Backend{{AddrPort: netip.MustParseAddrPort("10.0.0.1:80")}}}
	if c := table.Put(name, next); describe(c) != "+a:81 " {
		t.Errorf("a new backend gave %q", describe(c))
	}
	next = slices.Clone(next)
	next[0].Verdicts[Outside] = Verdict{Action: Drop}
	if c := table.Put(name, next); describe(c) != "+a:80 " {
		t.Errorf("a new verdict gave %q", describe(c))
	}
}

// Services with more frontends than are searched one by one change likewise.
func TestPutManyPorts(t *testing.T) {
	name := types.NamespacedName{Namespace: "default", Name: "a"}
	var ports []uint16
	for p := range uint16(3 * few) {
		ports = append(ports, 1000+p)
	}
	table := NewTable()
	table.Put(name, frontends("a", 1, ports...))
	rest := append(slices.Delete(slices.Clone(ports), 5, 6), 7)
	if got := describe(table.Put(name, frontends("a", 1, rest...))); got != "+a:7 -1005 " {
		t.Errorf("change %q", got)
	}
}

// Rivals are those whose view of the table a Service changes.
func TestRivals(t *testing.T) {
	table := NewTable()
	a := frontends("a", 1, 80, 81)
	for i, name := range []string{"a", "b", "c"} {
		table.Put(types.NamespacedName{Namespace: "default", Name: name}, frontends(name, 1, 80+uint16(i/2), 90+uint16(i)))
	}
	got := table.Rivals(a)
	if len(got) != 1 || got[0].Name != "b" {
		t.Errorf("got %v", got)
	}
}
