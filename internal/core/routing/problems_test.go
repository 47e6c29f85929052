package routing

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"portico.dev/portico/internal/core/catalog"
)

// A Service with very many endpoints has them all, up to a limit; which ones it has
// then is the same on every node, and the rest is told. Other Services aren't concerned.
func TestVeryManyEndpoints(t *testing.T) {
	for _, n := range []int{5_000, MaxBackends, MaxBackends + 5} {
		for _, oneSlice := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d one slice %v", n, oneSlice), func(t *testing.T) {
				v, other := view(1, n, 0), view(2, 3, 0)
				if oneSlice {
					for _, s := range v.Slices[1:] {
						v.Slices[0].Endpoints = append(v.Slices[0].Endpoints, s.Endpoints...)
					}
					v.Slices = v.Slices[:1]
				}
				table := fill([]catalog.View{v, other})
				f := table.Claims(v.Name)[0]
				want := min(n, MaxBackends)
				if len(f.Cluster) != want || !slices.IsSortedFunc(f.Cluster, func(a, b Backend) int { return a.Compare(b.AddrPort) }) {
					t.Errorf("%d backends in the set, want %d, sorted", len(f.Cluster), want)
				}
				for _, l := range f.LeftOut {
					if l.Reason != TooMany || l.Local {
						t.Errorf("%s is left out: %s; the local set has room", l.AddrPort, l.Reason)
					}
				}
				got := Problems(v.Service, v.Slices, table.Get)
				if (n > MaxBackends) != (len(got) == 1) {
					t.Errorf("problems %v", got)
				}
				if len(got) == 1 && (got[0].Reason != problemTooMany || !strings.HasPrefix(got[0].Text, "5 endpoints")) {
					t.Errorf("problem %v", got[0])
				}
				if len(Problems(other.Service, other.Slices, table.Get)) > 0 || len(table.Claims(other.Name)[0].Cluster) != 3 {
					t.Error("the other Service suffers")
				}
			})
		}
	}
}

// A condition names the first problems and counts the others, and is none without.
func TestCondition(t *testing.T) {
	if Condition(nil, 3) != nil {
		t.Error("nothing is wrong, and there is a condition")
	}
	var all []Problem
	for i := range maxTold + 2 {
		all = append(all, Problem{Field: fmt.Sprint("field", i), Reason: fmt.Sprint("Reason", i), Text: "mend it"})
	}
	c := Condition(all, 3)
	if c.Type != ServedCondition || c.Status != "False" || c.Reason != "Reason0" || c.ObservedGeneration != 3 {
		t.Errorf("%+v", c)
	}
	if !strings.Contains(c.Message, "field7: mend it; and 2 more like these") || strings.Contains(c.Message, "field8") {
		t.Error(c.Message)
	}
}

// What somebody else serves isn't judged.
func TestProblemsOfOthers(t *testing.T) {
	v := view(1, 2, 0)
	v.Slices[0].Endpoints = append(v.Slices[0].Endpoints, v.Slices[0].Endpoints[0])
	owner := func(Key) *Frontend { return nil }
	if n := len(Problems(v.Service, v.Slices, owner)); n != 1 {
		t.Errorf("%d problems, want the duplicate", n)
	}
	for name, change := range map[string]func(*catalog.Service){
		"another proxy": func(s *catalog.Service) { s.Foreign = true },
		"ExternalName":  func(s *catalog.Service) { s.Type = corev1.ServiceTypeExternalName },
		"headless":      func(s *catalog.Service) { s.Headless, s.ClusterIPs = true, nil },
	} {
		svc := *v.Service
		change(&svc)
		if got := Problems(&svc, v.Slices, owner); len(got) > 0 {
			t.Errorf("%s: %v", name, got)
		}
	}
}
