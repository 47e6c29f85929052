package system_test

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/system"
)

var ranges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")}

// API-11: the Service kubernetes exists from the first start, and leads to the API
// servers that live. kube-dns leads to every Ready node's own addresses, and each node's
// clients to their own. DNS-06
func TestSystemServices(t *testing.T) {
	s := apitest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// Later starts find all there. What is unsaid is said, and what a person says stays.
	const own, near = corev1.ServiceTrafficDistributionPreferSameNode, corev1.ServiceTrafficDistributionPreferClose
	for _, start := range []struct{ want, then string }{{own, `null`}, {own, `"` + near + `"`}, {near, `"` + own + `"`}} {
		if err := system.Bootstrap(ctx, s.Kube, ranges); err != nil {
			t.Fatal(err)
		}
		patch := []byte(`{"spec":{"trafficDistribution":` + start.then + `}}`)
		dns := s.Kube.CoreV1().Services("kube-system")
		svc, err := dns.Get(ctx, "kube-dns", metav1.GetOptions{})
		if err == nil {
			_, err = dns.Patch(ctx, "kube-dns", types.MergePatchType, patch, metav1.PatchOptions{})
		}
		if err != nil {
			t.Fatal(err)
		}
		if is := svc.Spec.TrafficDistribution; is == nil || *is != start.want {
			t.Errorf("kube-dns prefers %v, want %s", is, start.want)
		}
	}
	for name, want := range map[types.NamespacedName][]string{
		{Namespace: "default", Name: "kubernetes"}:   {"10.96.0.1"},
		{Namespace: "kube-system", Name: "kube-dns"}: {"10.96.0.10", "fd00:10:96::a"},
	} {
		svc, err := s.Kube.CoreV1().Services(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(svc.Spec.ClusterIPs, want) {
			t.Errorf("%s has cluster IPs %v, want %v", name, svc.Spec.ClusterIPs, want)
		}
	}

	done := make(chan error, 1)
	go func() { done <- system.Run(ctx, s.Kube, slog.New(slog.DiscardHandler)) }()
	node(t, s.Kube, "a", corev1.ConditionTrue, "10.244.0.0/24", "fd00:10:244::/64")
	node(t, s.Kube, "b", corev1.ConditionFalse, "10.244.1.0/24", "fd00:10:244:1::/64")
	endpoints(t, s.Kube, "kube-system", "kube-dns-ipv4", "10.244.0.1")
	endpoints(t, s.Kube, "kube-system", "kube-dns-ipv6", "fd00:10:244::1")
	slice, err := s.Kube.DiscoveryV1().EndpointSlices("kube-system").Get(ctx, "kube-dns-ipv4", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if hints := slice.Endpoints[0].Hints; hints == nil || len(hints.ForNodes) != 1 || hints.ForNodes[0].Name != "a" {
		t.Errorf("a's server isn't meant for a's clients: %v", hints)
	}

	life, end := context.WithCancel(ctx)
	gone := make(chan error, 1)
	go func() {
		gone <- system.Announce(life, s.Kube, "a", []netip.AddrPort{netip.MustParseAddrPort("10.244.0.1:6443")}, slog.New(slog.DiscardHandler))
	}()
	endpoints(t, s.Kube, "default", "kubernetes-ipv4", "10.244.0.1")
	end()
	if err := <-gone; err != nil {
		t.Error(err)
	}
	endpoints(t, s.Kube, "default", "kubernetes-ipv4") // at once, not when the lease runs out
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func node(t *testing.T, kube kubernetes.Interface, name string, ready corev1.ConditionStatus, cidrs ...string) {
	t.Helper()
	n, err := kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: cidrs[0], PodCIDRs: cidrs},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	if _, err := kube.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// endpoints waits until the slice has these addresses.
func endpoints(t *testing.T, kube kubernetes.Interface, namespace, name string, want ...string) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		slice, err := kube.DiscoveryV1().EndpointSlices(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			continue
		}
		if got = addresses(slice); slices.Equal(got, want) {
			return
		}
	}
	t.Fatalf("EndpointSlice %s/%s has %v, want %v", namespace, name, got, want)
}

func addresses(slice *discoveryv1.EndpointSlice) (out []string) {
	for _, e := range slice.Endpoints {
		out = append(out, e.Addresses...)
	}
	return out
}
