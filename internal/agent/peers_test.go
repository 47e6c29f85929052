package agent

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/mesh"
)

// fellows is what FollowPeers hands over.
type fellows struct {
	nodes  []mesh.Node
	guests []mesh.Guest
}

// The nodes and the guests of others are handed over whole, at first when both are known,
// then at each change that routes depend on, from a real API server.
func TestFollowPeers(t *testing.T) {
	s := apitest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	node := func(name, at string) *corev1.Node {
		n, err := s.Kube.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: at}}
		if n, err = s.Kube.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	pods := s.Kube.CoreV1().Pods("default")
	pod := func(name, node, ip string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		p, err := pods.Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
		if p, err = pods.UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if _, err := s.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	node("a", "192.0.2.1")
	b := node("b", "192.0.2.2")
	pod("own", "a", "10.245.0.1")
	theirs := pod("theirs", "b", "10.245.0.2")
	f, done := make(chan fellows, 100), make(chan error, 1)
	go func() {
		done <- FollowPeers(ctx, s.Kube, "a", slog.New(slog.DiscardHandler), func(n []mesh.Node, g []mesh.Guest) { f <- fellows{n, g} })
	}()
	// expect waits for what is handed over last.
	expect := func(what string, ok func(fellows) bool) {
		t.Helper()
		for {
			select {
			case got := <-f:
				if ok(got) {
					return
				}
			case <-time.After(30 * time.Second):
				t.Fatalf("never handed over: %s", what)
			}
		}
	}
	expect("two nodes and the guest of b", func(got fellows) bool {
		if len(got.nodes) == 0 || len(got.guests) == 0 {
			t.Errorf("half of it: %+v", got)
		}
		return len(got.nodes) == 2 && len(got.guests) == 1 && got.guests[0].Node == "b" && got.guests[0].Addrs[0] == netip.MustParseAddr("10.245.0.2")
	})
	theirs.Status.Phase = corev1.PodSucceeded
	if _, err := pods.UpdateStatus(ctx, theirs, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("a guest that ended", func(got fellows) bool { return len(got.guests) == 0 })
	b.Status.Addresses[0].Address = "192.0.2.22"
	if _, err := s.Kube.CoreV1().Nodes().UpdateStatus(ctx, b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("another address of b", func(got fellows) bool {
		return slices.ContainsFunc(got.nodes, func(n mesh.Node) bool {
			return len(n.Addresses) == 1 && n.Addresses[0] == netip.MustParseAddr("192.0.2.22")
		})
	})
	if err := s.Kube.CoreV1().Nodes().Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect("b gone", func(got fellows) bool { return len(got.nodes) == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What routes don't depend on is no news: a node that reports its conditions, a pod whose
// labels change.
func TestPeersNoNews(t *testing.T) {
	p := newPeers()
	guest := func() *mesh.Guest {
		return &mesh.Guest{Name: name("g"), Node: "b", Addrs: []netip.Addr{netip.MustParseAddr("10.245.0.2")}}
	}
	if !put(p.guests, name("g"), guest(), (*mesh.Guest).Equal) {
		t.Error("a new guest was no news")
	}
	if put(p.guests, name("g"), guest(), (*mesh.Guest).Equal) || put(p.guests, name("h"), nil, (*mesh.Guest).Equal) {
		t.Error("equal values were news")
	}
	if !put(p.guests, name("g"), nil, (*mesh.Guest).Equal) || len(p.guests) != 0 {
		t.Error("a guest that is gone is kept")
	}
}
