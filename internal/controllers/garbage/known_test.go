package garbage

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

// What objects tell, and what they find, when objects come, change and go.
func TestObjectsTell(t *testing.T) {
	var told []string
	s := newObjects(
		func(old, now *known) {
			text := "seen " + now.name.name
			if old != nil {
				text += " again"
			}
			told = append(told, text)
		},
		func(k *known) { told = append(told, "gone "+string(k.uid)) },
		func() { told = append(told, "full") },
	)
	other := thing("b", "y", "x", "x") // of a second owner, and twice of the first
	again := thing("a")
	again.UID = "uid-a2"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		do         func() error
		told       string
		dependents string // of x
	}{
		{func() error { return s.Replace([]any{thing("a", "x"), thing("b")}, "1") }, "seen a, full, seen b", "a"},
		{func() error { return s.Update(other) }, "seen b again", "a b"},
		{func() error { return s.Update(thing("b", "y")) }, "seen b again", "a"},
		{func() error { return s.Add(thing("c", "x")) }, "seen c", "a c"},
		{func() error { return s.Delete(thing("c")) }, "gone uid-c", "a"},
		{func() error { return s.Delete(thing("c")) }, "", "a"},
		{func() error { return s.Resync() }, "seen a again, seen b again", "a"},
		{func() error { return s.Update(again) }, "gone uid-a, seen a", ""},
		{func() error { return s.Replace([]any{thing("d", "x")}, "2") }, "seen d, gone uid-a2, gone uid-b", "d"},
		{func() error { return s.Replace(nil, "3") }, "gone uid-d", ""},
	} {
		told = nil
		must(step.do())
		slices.Sort(told[min(1, len(told)):]) // maps have no order
		if step.told == "seen a again, seen b again" {
			slices.Sort(told)
		}
		if got := strings.Join(told, ", "); got != step.told {
			t.Errorf("told %q, want %q", got, step.told)
		}
		var names []string
		for _, k := range s.dependents("uid-x") {
			names = append(names, k.name.name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != step.dependents {
			t.Errorf("after %q: dependents %q, want %q", step.told, got, step.dependents)
		}
	}
	if !s.synced() || len(s.byName) > 0 || len(s.byOwner) > 0 {
		t.Errorf("filled %v; %d objects and %d buckets are left", s.synced(), len(s.byName), len(s.byOwner))
	}
}

// Owners that share a bucket don't share dependents.
func TestDependentsAreOfOneOwner(t *testing.T) {
	s := newObjects(func(_, _ *known) {}, func(*known) {}, func() {})
	const n = 5000
	for i := range n {
		if err := s.Add(thing(fmt.Sprint(i), fmt.Sprint("owner-", i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{0, 1, n - 1} {
		got := s.dependents(types.UID(fmt.Sprint("uid-owner-", i)))
		if len(got) != 1 || got[0].name.name != fmt.Sprint(i) {
			t.Errorf("dependents of owner-%d: %v", i, got)
		}
	}
}
