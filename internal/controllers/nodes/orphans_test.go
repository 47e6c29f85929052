package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/system"
)

func bound(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// left are the pods that there are.
func (w *world) left() (names []string) {
	list, err := w.client.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	w.must(err)
	for _, p := range list.Items {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

// Pods of a node that doesn't exist are removed after the quarantine, and those only.
func TestStrandedPods(t *testing.T) {
	alive := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	// Asked already, and held by a finalizer; the fake store would let it go.
	asked := func(p *corev1.Pod) {
		p.Finalizers = []string{"example.com/held"}
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now()}, new(int64)
	}
	w := newWorld(t, alive, bound("on-a", "a"), bound("nowhere", ""), bound("on-b", "b"), bound("also-on-b", "b"), bound("asked", "b", asked))
	all := w.left()
	check := func(what string, want []string) {
		t.Helper()
		if got := w.left(); !slices.Equal(got, want) {
			t.Fatalf("%s: %v are left, want %v", what, got, want)
		}
	}
	w.sync("b")
	w.clock.Step(quarantine - time.Second)
	w.sync("b")
	check("a second early", all)

	// The Node is back, though no watch has told yet.
	_, err := w.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{})
	w.must(err)
	w.clock.Step(time.Second)
	w.must(w.c.sync(t.Context(), "b"))
	check("the store has the Node", all)

	w.must(w.client.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}))
	w.sync("b")
	w.clock.Step(quarantine - time.Second)
	w.sync("b")
	check("gone again, and a second early", all)
	w.clock.Step(time.Second)
	w.sync("b")
	check("gone for good", []string{"asked", "nowhere", "on-a"})

	// A pod that comes after that gets its time as well.
	w.sync("b") // asked alone isn't worth a note
	_, err = w.client.CoreV1().Pods("default").Create(t.Context(), bound("late", "b"), metav1.CreateOptions{})
	w.must(err)
	w.clock.Step(quarantine)
	w.sync("b")
	check("a pod that came late", []string{"asked", "late", "nowhere", "on-a"})
}

// On a real server: guests' pods of a deleted Node go without their node's help, at once
// and wholly, but for those that a finalizer holds.
func TestDeletedNode(t *testing.T) {
	s := apitest.Start(t)
	if err := system.Bootstrap(t.Context(), s.Kube, prefixes("10.96.0.0/12")); err != nil {
		t.Fatal(err)
	}
	held := func(p *corev1.Pod) { p.Finalizers = []string{"example.com/held"} }
	pods := s.Kube.CoreV1().Pods("default")
	for _, p := range []*corev1.Pod{bound("guest", "b"), bound("ending", "b"), bound("held", "b", held), bound("other", "a")} {
		if _, err := pods.Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a", "b"} {
		if _, err := s.Kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := pods.Delete(t.Context(), "ending", metav1.DeleteOptions{}); err != nil { // in its 30 s
		t.Fatal(err)
	}
	clk := testclock.NewFakeClock(time.Now())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Deps{Client: s.Kube, Clock: clk, Log: slog.New(slog.DiscardHandler)}) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if err := s.Kube.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "b's pods are gone", func() error {
		clk.Step(time.Second)
		list, err := pods.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var names []string
		for _, p := range list.Items {
			names = append(names, p.Name)
			if p.Name == "held" {
				if p.DeletionGracePeriodSeconds == nil || *p.DeletionGracePeriodSeconds != 0 {
					return fmt.Errorf("there are %v", names)
				}
			}
		}
		if !slices.Equal(names, []string{"held", "other"}) {
			return fmt.Errorf("there are %v", names)
		}
		return nil
	})
}
