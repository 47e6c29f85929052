package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"portico.dev/portico/internal/core/catalog"
)

// feed is a Consumer that passes everything on.
type feed chan any

func (f feed) Replace(node *catalog.Node, views []View) { f <- replaced{node, views} }
func (f feed) Update(views []View)                      { f <- views }

// ranges has the ranges passed on as well.
func (f feed) ranges(standard ...string) Ranges {
	return Ranges{Default: prefixes(standard...), To: func(r []netip.Prefix) { f <- r }}
}

type replaced struct {
	node  *catalog.Node
	views []View
}

func next[T any](t *testing.T, f feed) T {
	t.Helper()
	select {
	case v := <-f:
		got, ok := v.(T)
		if !ok {
			t.Fatalf("got %T %+v", v, v)
		}
		return got
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// Run hands over the first lists, then changes, by real reflectors.
func TestRun(t *testing.T) {
	meta := func(n string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: n} }
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}
	es := &discoveryv1.EndpointSlice{ObjectMeta: meta("web-1"), AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}}
	es.Labels = map[string]string{discoveryv1.LabelServiceName: "web"}
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/12"}}}
	client := fake.NewClientset(node, es, cidr, &corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}})

	ctx, cancel := context.WithCancel(context.Background())
	watching := make(chan string, 10)
	client.PrependWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(action.GetResource(), action.GetNamespace())
		watching <- action.GetResource().Resource
		return true, w, err
	})
	f, done := make(feed, 10), make(chan error)
	go func() { done <- Run(ctx, client, "a", slog.New(slog.DiscardHandler), f.ranges("10.0.0.0/8"), f) }()
	if r := next[[]netip.Prefix](t, f); !slices.Equal(r, prefixes("10.96.0.0/12")) {
		t.Errorf("first ranges: %v", r)
	}
	first := next[replaced](t, f)
	if first.node.Zone != "z1" || len(first.views) != 1 || len(first.views[0].Slices) != 1 || first.views[0].Service.ClusterIPs[0].String() != "10.96.0.1" {
		t.Errorf("first: %+v", first)
	}
	for range resources {
		<-watching // the fake client forgets what happens between a list and its watch
	}
	if err := client.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if u := next[[]View](t, f); len(u) != 1 || u[0].Service != nil || u[0].Name != name("web") {
		t.Errorf("after the deletion: %+v", u)
	}
	node = node.DeepCopy()
	node.Labels[corev1.LabelTopologyZone] = "z2"
	if _, err := client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := next[replaced](t, f); r.node.Zone != "z2" || len(r.views) != 0 {
		t.Errorf("after the node's change: %+v", r)
	}
	cidr = &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.200.0.0/24"}}}
	if _, err := client.NetworkingV1().ServiceCIDRs().Create(ctx, cidr, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if r := next[[]netip.Prefix](t, f); !slices.Equal(r, prefixes("10.96.0.0/12", "10.200.0.0/24")) {
		t.Errorf("after another ServiceCIDR: %v", r)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// ALLOC-05: an API without ServiceCIDRs (before Kubernetes 1.33), or one that doesn't
// let us read them, holds nothing else up: the ranges are those of the flags.
func TestRunWithoutServiceCIDRs(t *testing.T) {
	resource := networkingv1.Resource("servicecidrs")
	for name, answer := range map[string]error{
		"not served": apierrors.NewNotFound(resource, ""),
		"forbidden":  apierrors.NewForbidden(resource, "", errors.New("no such right")),
	} {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}})
			client.PrependReactor("*", resource.Resource, func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, answer })
			client.PrependWatchReactor(resource.Resource, func(clienttesting.Action) (bool, watch.Interface, error) { return true, nil, answer })
			ctx, cancel := context.WithCancel(context.Background())
			f, done := make(feed, 10), make(chan error)
			go func() { done <- Run(ctx, client, "a", slog.New(slog.DiscardHandler), f.ranges("10.96.0.0/12"), f) }()
			if r := next[[]netip.Prefix](t, f); !slices.Equal(r, prefixes("10.96.0.0/12")) {
				t.Errorf("ranges: %v", r)
			}
			if first := next[replaced](t, f); len(first.views) != 1 {
				t.Errorf("first: %+v", first)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
