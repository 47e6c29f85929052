package routing

import (
	"fmt"
	"net/netip"
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
func TestOlderServiceOwnsTheKey(t *testing.T) {
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
		for l := range table.Losers() {
			loser += l.Service.Name
		}
		if loser != step.loser {
			t.Errorf("step %d: loser %q, want %q", i, loser, step.loser)
		}
	}
	if table.Len() != 0 {
		t.Errorf("%d frontends remain", table.Len())
	}
}

func TestOlderIsTheSameEverywhere(t *testing.T) {
	a, b := frontends("a", 1, 80)[0], frontends("b", 1, 80)[0]
	if !a.Older(&b) || b.Older(&a) {
		t.Error("Services of the same second must be ordered by UID")
	}
}

func TestDiffIsByValue(t *testing.T) {
	old, new := frontends("a", 1, 80, 81), frontends("a", 1, 80, 81)
	if c := Diff(old, new); !c.Empty() {
		t.Errorf("equal values differ: %s", describe(c))
	}
	new[1].Sets = &Sets{Cluster: []Backend{{AddrPort: netip.MustParseAddrPort("10.0.0.1:80")}}}
	if c := Diff(old, new); describe(c) != "+a:81 " {
		t.Errorf("a new backend gave %q", describe(c))
	}
	new = frontends("a", 1, 80, 81)
	new[0].Verdicts[Outside] = Verdict{Action: Drop}
	if c := Diff(old, new); describe(c) != "+a:80 " {
		t.Errorf("a new verdict gave %q", describe(c))
	}
}
