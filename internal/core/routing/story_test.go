package routing

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/test/story"
)

// TestStories reads objects as users write them and compares the whole decision.
// Each story names the behaviours it proves in its first line. A slice that names no
// Service is the first one's.
func TestStories(t *testing.T) { story.Run(t, "testdata", tell) }

// world is the objects of a story.
type world struct {
	node     *catalog.Node
	services []*catalog.Service
	slices   []*catalog.Slice
}

func tell(t *testing.T, files []txtar.File) map[string]string {
	w := world{node: &catalog.Node{}}
	for _, f := range files {
		switch name, _, _ := strings.Cut(f.Name, "."); {
		case name == "node":
			n := &corev1.Node{}
			story.Read(t, f, n)
			w.node = catalog.FromNode(n)
		case strings.HasPrefix(name, "service"):
			s := &corev1.Service{}
			story.Read(t, f, s)
			s.Namespace = cmp.Or(s.Namespace, "default")
			w.services = append(w.services, catalog.FromService(s))
		case strings.HasPrefix(name, "slice"):
			es := &discoveryv1.EndpointSlice{}
			story.Read(t, f, es)
			es.Namespace, es.Name = cmp.Or(es.Namespace, "default"), name
			if es.Labels == nil {
				es.Labels = map[string]string{discoveryv1.LabelServiceName: w.services[0].Name.Name}
			}
			if s := catalog.FromSlice(es); s != nil {
				w.slices = append(w.slices, s)
			}
		case name != "frontends" && name != "problems":
			t.Fatalf("don't know file %s", f.Name)
		}
	}
	frontends, problems := w.outcome()
	for range 5 { // the order of Services, slices and endpoints means nothing
		w.shuffle()
		if f, p := w.outcome(); f != frontends || p != problems {
			t.Fatalf("another order gave another result:\n%s%s\nfirst:\n%s%s", f, p, frontends, problems)
		}
	}
	return map[string]string{"frontends": frontends, "problems": problems}
}

// outcome prints what each Service serves, and what not.
func (w *world) outcome() (frontends, problems string) {
	var c Computer
	table := NewTable()
	for _, svc := range w.services {
		table.Put(svc.Name, c.Compute(w.node, svc, w.of(svc)))
	}
	sorted := slices.SortedFunc(slices.Values(w.services), func(a, b *catalog.Service) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	for _, svc := range sorted {
		served := slices.Clone(table.Claims(svc.Name))
		served = slices.DeleteFunc(served, func(f Frontend) bool { return table.Get(f.Key).Service != svc.Name })
		frontends += Format(served)
		for _, p := range Problems(svc, w.of(svc), table.Get) {
			problems += svc.Name.String() + " " + p.Reason + "\n  " + p.String() + "\n"
		}
	}
	return frontends, problems
}

func (w *world) of(svc *catalog.Service) (out []*catalog.Slice) {
	for _, s := range w.slices {
		if s.Service == svc.Name {
			out = append(out, s)
		}
	}
	return out
}

func (w *world) shuffle() {
	shuffle(w.services)
	shuffle(w.slices)
	for _, s := range w.slices {
		shuffle(s.Endpoints)
	}
}

func shuffle[T any](s []T) { rand.Shuffle(len(s), func(i, j int) { s[i], s[j] = s[j], s[i] }) }
