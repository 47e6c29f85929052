package register_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/node/register"
)

// A node registers, waits for its pod ranges, and reports its addresses and health.
func TestRegistration(t *testing.T) {
	s := apitest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}}
	if _, err := s.Kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	nodes := s.Kube.CoreV1().Nodes()
	r := register.New(s.Kube, register.Node{
		Name: "a", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.2")}, DoorPort: 10250, Memory: 1 << 30, Guests: 3, Version: "v1",
	}, slog.New(slog.DiscardHandler))

	registered := make(chan error, 1)
	var ranges []netip.Prefix
	go func() {
		var err error
		ranges, err = r.Register(ctx)
		registered <- err
	}()
	eventually(t, "the Node exists", func() bool {
		_, err := nodes.Get(ctx, "a", metav1.GetOptions{})
		return err == nil
	})
	select {
	case err := <-registered:
		t.Fatalf("registered before it had pod ranges: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	cut := []byte(`{"spec":{"podCIDR":"10.244.0.0/24","podCIDRs":["10.244.0.0/24","fd00:10:244::/64"]}}`)
	if _, err := nodes.Patch(ctx, "a", types.MergePatchType, cut, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-registered; err != nil || len(ranges) != 2 || ranges[1] != netip.MustParsePrefix("fd00:10:244::/64") {
		t.Fatalf("got %v, %v", ranges, err)
	}

	var sick atomic.Bool
	changes := make(chan []netip.Addr)
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, changes, func() error {
			if sick.Load() {
				return errors.New("the data plane is stuck")
			}
			return nil
		})
	}()
	eventually(t, "the node is Ready", func() bool { return ready(t, s, corev1.ConditionTrue) })
	sick.Store(true) // reported at once, not at the next renewal
	eventually(t, "the node is not Ready", func() bool { return ready(t, s, corev1.ConditionFalse) })
	sick.Store(false)
	eventually(t, "the node is Ready again", func() bool { return ready(t, s, corev1.ConditionTrue) })
	changes <- []netip.Addr{netip.MustParseAddr("192.0.2.3")} // NET-04
	eventually(t, "the new address is there", func() bool {
		n, err := nodes.Get(ctx, "a", metav1.GetOptions{})
		return err == nil && slices.Contains(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "192.0.2.3"})
	})
	if _, err := s.Kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, "a", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	restartStaysReady(t, s)
}

// An agent that starts again isn't healthy until it has listed everything; that is
// no reason to take the node out of service meanwhile (DP-18).
func restartStaysReady(t *testing.T, s *apitest.Server) {
	ctx, cancel := context.WithCancel(t.Context())
	w, err := s.Kube.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	r := register.New(s.Kube, register.Node{Name: "a", Version: "v2"}, slog.New(slog.DiscardHandler))
	var synced atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- r.Run(ctx, nil, func() error {
			if !synced.Load() {
				return errors.New("not listed yet")
			}
			return nil
		})
	}()
	for reported := false; !reported; { // the new version shows that it reported
		select {
		case event := <-w.ResultChan():
			n, ok := event.Object.(*corev1.Node)
			reported = ok && n.Status.NodeInfo.KubeletVersion == "v2"
		case <-time.After(30 * time.Second):
			t.Fatal("the new run reported nothing")
		}
	}
	if !ready(t, s, corev1.ConditionTrue) {
		t.Error("a node whose agent starts again is not Ready")
	}
	synced.Store(true)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func ready(t *testing.T, s *apitest.Server, want corev1.ConditionStatus) bool {
	n, err := s.Kube.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
	return err == nil && slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == want
	})
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("waited in vain until %s", what)
}
