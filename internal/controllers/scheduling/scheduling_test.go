package scheduling

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	testclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/test/fakewatch"
)

func node(name string, change ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": "ssd"}},
		Status: corev1.NodeStatus{
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
			Allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("3")},
		},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name)},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("400Mi")},
		}}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func on(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }

func notReady(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }

func tainted(n *corev1.Node) {
	n.Spec.Taints = []corev1.Taint{{Key: "dedicated", Value: "gpu", Effect: corev1.TaintEffectNoSchedule}}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name  string
		nodes []*corev1.Node
		there []*corev1.Pod
		pod   *corev1.Pod
		want  string // a node, or the beginning of why not
	}{
		{"one node", []*corev1.Node{node("a")}, nil, pod("p"), "a"},
		{"the emptier node", []*corev1.Node{node("a"), node("b")}, []*corev1.Pod{pod("x", on("a"))}, pod("p"), "b"},
		{"the first of equals", []*corev1.Node{node("b"), node("a")}, nil, pod("p"), "a"},
		{"no node", nil, nil, pod("p"), "no nodes available to schedule pods"},
		{"not ready", []*corev1.Node{node("a", notReady)}, nil, pod("p"), "0/1 nodes are available: 1 node(s) were not ready."},
		{"cordoned", []*corev1.Node{node("a", cordoned)}, nil, pod("p"), "0/1 nodes are available: 1 node(s) were unschedulable."},
		{"tainted", []*corev1.Node{node("a", tainted)}, nil, pod("p"), "0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: gpu}."},
		{"tolerated", []*corev1.Node{node("a", tainted)}, nil, pod("p", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "dedicated", Operator: corev1.TolerationOpExists}}
		}), "a"},
		{
			"selector",
			[]*corev1.Node{node("a"), node("b")},
			nil, pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "hdd"} }),
			"0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
		},
		{
			"memory, pods and selector",
			[]*corev1.Node{node("a"), node("b"), node("c", func(n *corev1.Node) { n.Labels = nil })},
			[]*corev1.Pod{pod("x", on("a")), pod("y", on("a")), small("s1", "b"), small("s2", "b"), small("s3", "b")},
			pod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }),
			"0/3 nodes are available: 1 Insufficient memory, 1 Too many pods, 1 node(s) didn't match Pod's node affinity/selector.",
		},
		{"a pod that ended takes no room", []*corev1.Node{node("a")}, []*corev1.Pod{pod("x", on("a")), pod("y", on("a"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })}, pod("p"), "a"},
		{"a node that doesn't say what it has", []*corev1.Node{node("a", func(n *corev1.Node) { n.Status.Allocatable = nil })}, []*corev1.Pod{pod("x", on("a"))}, pod("p"), "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			loads := map[string]load{}
			for _, p := range c.there {
				if ended(p) {
					continue
				}
				l := loads[p.Spec.NodeName]
				l.add(p)
				loads[p.Spec.NodeName] = l
			}
			name, why := choose(c.pod, c.nodes, loads)
			if got := name + why; !strings.HasPrefix(got, c.want) || name != "" && name != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

func small(name, nodeName string) *corev1.Pod {
	return pod(name, on(nodeName), func(p *corev1.Pod) { p.Spec.Containers = nil })
}

// world is a store whose pods are bound when somebody asks for it.
func world(objects ...runtime.Object) (*kubefake.Clientset, func() map[string]string) {
	client := kubefake.NewClientset(objects...)
	bindings := map[string]string{}
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		b := a.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		if bindings[b.Name] != "" {
			return true, nil, fmt.Errorf("pod %s is bound twice", b.Name)
		}
		bindings[b.Name] = b.Target.Name
		return true, b, nil
	})
	return client, func() map[string]string { return bindings }
}

// A pod whose binding the cache hasn't seen yet takes its room already, and
// isn't bound again.
func TestRoomIsPromisedOnce(t *testing.T) {
	client, bindings := world()
	factory := informers.NewSharedInformerFactory(client, 0)
	pods, nodes := factory.Core().V1().Pods(), factory.Core().V1().Nodes()
	events := record.NewFakeRecorder(10)
	s := newScheduler(Deps{Client: client, Recorder: events, Log: slog.New(slog.DiscardHandler), Clock: testclock.NewFakeClock(time.Now())}, pods.Lister(), nodes.Lister())
	for _, obj := range []*corev1.Pod{pod("p1"), pod("p2"), pod("p3")} {
		if err := pods.Informer().GetIndexer().Add(obj); err != nil {
			t.Fatal(err)
		}
		if _, err := client.CoreV1().Pods("ns").Create(context.Background(), obj, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := nodes.Informer().GetIndexer().Add(node("a")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for _, name := range []string{"p1", "p2", "p3"} {
			if err := s.schedule(context.Background(), types.NamespacedName{Namespace: "ns", Name: name}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if want := map[string]string{"p1": "a", "p2": "a"}; !maps.Equal(bindings(), want) {
		t.Errorf("bound %v, want %v", bindings(), want)
	}
	p3, err := client.CoreV1().Pods("ns").Get(context.Background(), "p3", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := p3.Status.Conditions; len(c) != 1 || c[0].Reason != "Unschedulable" || c[0].Message != "0/1 nodes are available: 1 Insufficient memory." {
		t.Errorf("conditions %v", c)
	}
	var said []string
	for range len(events.Events) {
		said = append(said, <-events.Events)
	}
	if !slices.ContainsFunc(said, func(e string) bool { return strings.HasPrefix(e, "Warning FailedScheduling 0/1 nodes") }) {
		t.Errorf("events %q", said)
	}
}

// Which pods are ours.
func TestWaits(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   bool
	}{
		"new":             {func(*corev1.Pod) {}, true},
		"bound":           {on("a"), false},
		"other scheduler": {func(p *corev1.Pod) { p.Spec.SchedulerName = "mine" }, false},
		"gated":           {func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "x"}} }, false},
		"being deleted":   {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, false},
		"failed":          {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, false},
	} {
		if got := waits(pod("p", c.change)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Run sees what comes: a pod waits for its node to come, and is bound then.
func TestRun(t *testing.T) {
	client, _ := world(pod("p"))
	bound := make(chan string, 1)
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() == "binding" {
			bound <- a.(clienttesting.CreateAction).GetObject().(*corev1.Binding).Target.Name
		}
		return false, nil, nil
	})
	watched := fakewatch.Of(t, client, "nodes", "pods")
	waiting := make(chan struct{}, 1)
	client.PrependReactor("update", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		select {
		case waiting <- struct{}{}:
		default:
		}
		return false, nil, nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Deps{Client: client, Log: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
	}()
	<-waiting
	watched()
	if _, err := client.CoreV1().Nodes().Create(ctx, node("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case name := <-bound:
		if name != "a" {
			t.Errorf("bound to %s", name)
		}
	case <-ctx.Done():
		t.Fatal("not bound")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
