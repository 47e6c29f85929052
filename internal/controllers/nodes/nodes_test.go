package nodes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	testclock "k8s.io/utils/clock/testing"
)

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, s := range texts {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		name         string
		ranges, used []netip.Prefix
		want         string // the pieces, or the beginning of the error
	}{
		{"first", prefixes("10.244.0.0/16", "fd00:10:244::/56"), nil, "[10.244.0.0/24 fd00:10:244::/64]"},
		{"second", prefixes("10.244.0.0/16", "fd00:10:244::/56"), prefixes("10.244.0.0/24", "fd00:10:244::/64"), "[10.244.1.0/24 fd00:10:244:1::/64]"},
		{"a gap", prefixes("10.244.0.0/16"), prefixes("10.244.3.0/24", "10.244.0.0/24", "10.244.1.0/24"), "[10.244.2.0/24]"},
		{"behind a large one", prefixes("10.244.0.0/16"), prefixes("10.244.0.0/22"), "[10.244.4.0/24]"},
		{"behind a small one", prefixes("10.244.0.0/16"), prefixes("10.244.0.128/25"), "[10.244.1.0/24]"},
		{"others' ranges don't matter", prefixes("10.244.0.0/16"), prefixes("192.168.0.0/16", "fd00::/8"), "[10.244.0.0/24]"},
		{"one for all", prefixes("10.244.5.0/24"), nil, "[10.244.5.0/24]"},
		{"none left", prefixes("10.244.0.0/23"), prefixes("10.244.0.0/24", "10.244.1.0/24"), "10.244.0.0/23: no free piece is left"},
		{"swallowed", prefixes("10.244.0.0/16"), prefixes("10.0.0.0/8"), "10.244.0.0/16: no free piece is left"},
		{"at the end of all addresses", prefixes("255.255.255.0/24"), prefixes("255.255.255.0/24"), "255.255.255.0/24: no free piece is left"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pieces, err := cut(c.ranges, c.used)
			got := fmt.Sprint(pieces)
			if err != nil {
				got = err.Error()
				if !errors.Is(err, errExhausted) {
					t.Errorf("%v isn't errExhausted", err)
				}
			}
			if !strings.HasPrefix(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// All of a range is handed out, once, before it is exhausted.
func TestCutHandsOutAll(t *testing.T) {
	for _, text := range []string{"10.244.0.0/16", "fd00:10:244::/56"} {
		var used []netip.Prefix
		for {
			p, err := cut(prefixes(text), used)
			if err != nil {
				break
			}
			if slices.ContainsFunc(used, p[0].Overlaps) {
				t.Fatalf("%s is handed out twice", p[0])
			}
			used = append(used, p[0])
		}
		if len(used) != 256 {
			t.Errorf("%s gives %d pieces", text, len(used))
		}
	}
}

func TestCheckRanges(t *testing.T) {
	for text, want := range map[string]string{
		"10.244.0.0/16 fd00:10:244::/56": "",
		"10.244.0.0/25":                  "is too small",
		"10.244.0.1/16":                  "write 10.244.0.0/16",
		"10.244.0.0/16 10.245.0.0/16":    "of one family",
	} {
		err := checkRanges(prefixes(strings.Fields(text)...))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// world is a controller whose caches are filled by hand.
type world struct {
	*testing.T
	client              *kubefake.Clientset
	clock               *testclock.FakeClock
	c                   *controller
	nodes, pods, leases cache.Indexer
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	w := &world{T: t, client: kubefake.NewClientset(objects...), clock: testclock.NewFakeClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))}
	f := informers.NewSharedInformerFactory(w.client, 0)
	nodes, pods, leases := f.Core().V1().Nodes(), f.Core().V1().Pods(), f.Coordination().V1().Leases()
	w.nodes, w.pods, w.leases = nodes.Informer().GetIndexer(), pods.Informer().GetIndexer(), leases.Informer().GetIndexer()
	w.c = newController(Deps{
		Client: w.client, Log: slog.New(slog.DiscardHandler), Clock: w.clock, Ranges: prefixes("10.244.0.0/16", "fd00:10:244::/56"),
	}, nodes.Lister(), pods.Lister(), leases.Lister())
	return w
}

// sync brings the caches up to date and looks after a node.
func (w *world) sync(name string) {
	w.Helper()
	ctx := context.Background()
	nodes, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	w.must(err)
	w.must(w.nodes.Replace(objects(nodes.Items), ""))
	pods, err := w.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	w.must(err)
	w.must(w.pods.Replace(objects(pods.Items), ""))
	leases, err := w.client.CoordinationV1().Leases("").List(ctx, metav1.ListOptions{})
	w.must(err)
	w.must(w.leases.Replace(objects(leases.Items), ""))
	w.must(w.c.sync(ctx, name))
}

func objects[T any](items []T) []any {
	out := make([]any, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) node(name string) *corev1.Node {
	n, err := w.client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	w.must(err)
	return n
}

// Whichever node's news comes first, the oldest gets the lowest range, and a
// node keeps what it has.
func TestAssign(t *testing.T) {
	at := func(name string, minute int, cidrs ...string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Date(2026, 3, 1, 12, minute, 0, 0, time.UTC))},
			Spec:       corev1.NodeSpec{PodCIDRs: cidrs},
		}
	}
	for _, first := range []string{"old", "new"} {
		w := newWorld(t, at("new", 5), at("old", 1), at("has", 9, "10.244.1.0/24", "fd00:10:244:7::/64"))
		w.sync(first)
		for name, want := range map[string]string{
			"old": "10.244.0.0/24 fd00:10:244::/64",
			"new": "10.244.2.0/24 fd00:10:244:1::/64",
			"has": "10.244.1.0/24 fd00:10:244:7::/64",
		} {
			n := w.node(name)
			if got := strings.Join(n.Spec.PodCIDRs, " "); got != want {
				t.Errorf("first %s: %s has %s, want %s", first, name, got, want)
			}
			if name != "has" && n.Spec.PodCIDR != n.Spec.PodCIDRs[0] {
				t.Errorf("%s: podCIDR %s", name, n.Spec.PodCIDR)
			}
		}
	}
}

// A node that renews nothing for 40 s is unknown, its ready pods aren't ready,
// and others stay as they are.
func TestSilentNode(t *testing.T) {
	ready := func(name, node string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: corev1.PodSpec{NodeName: node},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "kube-node-lease"}}
	w := newWorld(t, lease, ready("here", "a"), ready("there", "b"), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	})
	renew := func() {
		lease = lease.DeepCopy()
		lease.Spec.RenewTime = &metav1.MicroTime{Time: w.clock.Now()}
		_, err := w.client.CoordinationV1().Leases(lease.Namespace).Update(context.Background(), lease, metav1.UpdateOptions{})
		w.must(err)
	}
	podStatus := func(name string) corev1.ConditionStatus {
		p, err := w.client.CoreV1().Pods("ns").Get(context.Background(), name, metav1.GetOptions{})
		w.must(err)
		return p.Status.Conditions[0].Status
	}
	for range 6 { // alive for a minute
		renew()
		w.sync("a")
		w.clock.Step(10 * time.Second)
	}
	w.clock.Step(29 * time.Second)
	w.sync("a")
	if got := readyStatus(w.node("a")); got != corev1.ConditionTrue {
		t.Errorf("%s after 39 s", got)
	}
	w.clock.Step(time.Second)
	w.sync("a")
	if c := w.node("a").Status.Conditions[0]; c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" {
		t.Errorf("after 40 s: %v", c)
	}
	if here, there := podStatus("here"), podStatus("there"); here != corev1.ConditionFalse || there != corev1.ConditionTrue {
		t.Errorf("pods: here %s, elsewhere %s", here, there)
	}
	// A new leader gives the node its time, whatever its clock says.
	w.c.signs = map[string]sign{}
	n := w.node("a")
	n.Status.Conditions[0].Status = corev1.ConditionTrue
	_, err := w.client.CoreV1().Nodes().UpdateStatus(context.Background(), n, metav1.UpdateOptions{})
	w.must(err)
	w.sync("a")
	if got := readyStatus(w.node("a")); got != corev1.ConditionTrue {
		t.Errorf("%s at once after a change of leaders", got)
	}
}

// A node whose renewals no watch tells of lives, and is silent once it renews no more.
func TestStalledWatch(t *testing.T) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "kube-node-lease"}}
	w := newWorld(t, lease, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	})
	w.sync("a")
	for range 3 {
		w.clock.Step(gracePeriod)
		lease = lease.DeepCopy()
		lease.Spec.RenewTime = &metav1.MicroTime{Time: w.clock.Now()}
		_, err := w.client.CoordinationV1().Leases(lease.Namespace).Update(t.Context(), lease, metav1.UpdateOptions{})
		w.must(err)
		w.must(w.c.sync(t.Context(), "a")) // the caches stay as they are
		if got := readyStatus(w.node("a")); got != corev1.ConditionTrue {
			t.Fatalf("%s although it renews its Lease", got)
		}
	}
	w.clock.Step(gracePeriod)
	w.must(w.c.sync(t.Context(), "a"))
	if got := readyStatus(w.node("a")); got != corev1.ConditionUnknown {
		t.Errorf("%s after %s without a renewal", got, gracePeriod)
	}
}

// A controller that was stopped itself has seen no silence: the node gets its time
// anew, and no more than that.
func TestStoppedController(t *testing.T) {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "kube-node-lease"}}
	w := newWorld(t, lease, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	})
	w.c.attention.look(w.clock.Now())
	w.sync("a")
	for _, looksFirst := range []bool{false, true} { // which goroutine wakes first isn't known
		w.clock.Step(time.Hour)
		if looksFirst {
			w.c.attention.look(w.clock.Now())
		}
		w.sync("a")
		w.c.attention.look(w.clock.Now())
		if got := readyStatus(w.node("a")); got != corev1.ConditionTrue {
			t.Fatalf("%s after the controller was stopped (looks first: %v)", got, looksFirst)
		}
	}
	for range 40 {
		w.clock.Step(time.Second)
		w.c.attention.look(w.clock.Now())
	}
	w.sync("a")
	if got := readyStatus(w.node("a")); got != corev1.ConditionUnknown {
		t.Errorf("%s after 40 s of silence that were watched", got)
	}
}
