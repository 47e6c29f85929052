package endpoints

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// world is a Service with its pods, and the slices as a history of plans left them.
type world struct {
	rng      *rand.Rand
	svc      *corev1.Service
	pods     map[int]*corev1.Pod
	existing []*discoveryv1.EndpointSlice
	limit    int
}

// event changes one thing, as users and nodes do, and says what.
func (w *world) event(maxPods int) string {
	n := w.rng.IntN(maxPods)
	switch p := w.pods[n]; w.rng.IntN(12) {
	case 0, 1, 2, 3:
		made := pod(n)
		if n%3 == 0 {
			made.Spec.Containers[0].Ports[0].ContainerPort = 9090
		}
		if n%5 == 0 {
			made.Status.PodIPs = made.Status.PodIPs[:1]
		}
		w.pods[n] = made
		return fmt.Sprintf("pod %d made", n)
	case 4, 5, 6:
		delete(w.pods, n)
		return fmt.Sprintf("pod %d gone", n)
	case 7, 8:
		if p != nil {
			p = p.DeepCopy()
			unready(p)
			w.pods[n] = p
		}
		return fmt.Sprintf("pod %d unready", n)
	case 9:
		if p != nil {
			p = p.DeepCopy()
			deleting(p)
			w.pods[n] = p
		}
		return fmt.Sprintf("pod %d terminating", n)
	case 10:
		w.svc = w.svc.DeepCopy()
		w.svc.Spec.PublishNotReadyAddresses = !w.svc.Spec.PublishNotReadyAddresses
		return "publishNotReadyAddresses"
	default:
		w.svc = w.svc.DeepCopy()
		switch w.rng.IntN(4) {
		case 0:
			w.svc.Spec.Ports[0].TargetPort = intstr.FromString("http")
		case 1:
			w.svc.Spec.Ports[0].TargetPort = intstr.FromInt32(int32(1 + w.rng.IntN(3)))
		case 2:
			w.svc.Spec.IPFamilies = service().Spec.IPFamilies[:1+w.rng.IntN(2)]
		case 3:
			w.svc.Labels = map[string]string{"team": string(rune('a' + w.rng.IntN(3)))}
		}
		return "Service changed"
	}
}

func (w *world) input(existing []*discoveryv1.EndpointSlice) Input {
	pods := slices.Collect(maps.Values(w.pods)) // in any order
	w.rng.Shuffle(len(existing), func(i, j int) { existing[i], existing[j] = existing[j], existing[i] })
	return Input{Service: w.svc, Pods: pods, Existing: existing, Zone: zones, Limit: w.limit}
}

// frames gives, for each family and list of ports, all endpoints and how many
// slices hold them.
func frames(list []*discoveryv1.EndpointSlice) (contents map[string][]string, count map[string]int) {
	contents, count = map[string][]string{}, map[string]int{}
	for _, s := range list {
		key := strings.SplitN(text(s), "\n", 2)[0]
		count[key]++
		contents[key] = slices.Concat(contents[key], nil)
		for _, e := range s.Endpoints {
			contents[key] = append(contents[key], endpointText(&e)+" "+e.TargetRef.Name)
		}
	}
	for key := range contents {
		slices.Sort(contents[key])
	}
	return contents, count
}

// EP-02: whatever happened before, the slices say the same as if computed from
// nothing, in no more slices than packing needs, and nothing is written twice.
func TestHistoryDoesNotMatter(t *testing.T) {
	for _, c := range []struct {
		limit, pods, events int
		seeds               uint64
	}{{0, 12, 200, 8}, {3, 20, 200, 8}, {20, 90, 400, 2}} {
		for seed := range c.seeds {
			w := &world{rng: rand.New(rand.NewPCG(seed, 1)), svc: service(), pods: map[int]*corev1.Pod{}, limit: c.limit}
			for step := range c.events {
				what := w.event(c.pods)
				if w.rng.IntN(4) == 0 {
					continue // several events reach one sync
				}
				where := fmt.Sprintf("limit %d, seed %d, step %d (%s)", c.limit, seed, step, what)
				plan := Slices(w.input(w.existing))
				checkNeeded(t, where, w.existing, plan)
				w.existing = apply(w.existing, plan)
				checkSame(t, where, w)
				if t.Failed() {
					return
				}
			}
		}
	}
}

func checkNeeded(t *testing.T, where string, existing []*discoveryv1.EndpointSlice, p Plan) {
	t.Helper()
	for _, next := range p.Update {
		at := slices.IndexFunc(existing, func(s *discoveryv1.EndpointSlice) bool { return s.Name == next.Name })
		now := existing[at].DeepCopy()
		now.Annotations = next.Annotations
		if equality.Semantic.DeepEqual(now, next) {
			t.Errorf("%s: %s is rewritten without a change", where, next.Name)
		}
	}
}

func checkSame(t *testing.T, where string, w *world) {
	t.Helper()
	limit := w.limit
	if limit == 0 {
		limit = DefaultLimit
	}
	fresh := apply(nil, Slices(w.input(nil)))
	got, count := frames(w.existing)
	want, _ := frames(fresh)
	if !equality.Semantic.DeepEqual(got, want) {
		t.Errorf("%s:\n got %v\nwant %v", where, got, want)
	}
	for key, n := range count {
		// The slack of merge: a tenth of a slice.
		if most := max(1, (len(got[key])+limit/10+limit-1)/limit); n > most {
			t.Errorf("%s: %d endpoints in %d slices, want at most %d", where, len(got[key]), n, most)
		}
	}
	for _, s := range w.existing {
		if len(s.Endpoints) > limit {
			t.Errorf("%s: %d endpoints in one slice", where, len(s.Endpoints))
		}
	}
	if again := Slices(w.input(w.existing)); !again.Empty() {
		t.Errorf("%s: the plan doesn't settle: %d, %d, %d", where, len(again.Create), len(again.Update), len(again.Delete))
	}
}
