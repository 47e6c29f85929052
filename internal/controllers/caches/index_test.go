package caches

import (
	"fmt"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// Services that share a bucket don't share slices.
func TestSlicesOfOneService(t *testing.T) {
	slices := cache.NewIndexer(cache.MetaNamespaceKeyFunc, SlicesByService())
	const services = 3 * buckets
	for n := range services {
		for _, name := range []string{"a", "b"} {
			s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
				Namespace: "ns", Name: fmt.Sprint(name, "-", n), Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprint("svc-", n)},
			}}
			if err := slices.Add(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := slices.Add(&discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "nobodys"}}); err != nil {
		t.Fatal(err)
	}
	for n := range services {
		service := types.NamespacedName{Namespace: "ns", Name: fmt.Sprint("svc-", n)}
		got, err := SlicesOf(slices, service)
		if err != nil || len(got) != 2 || ServiceOf(got[0]) != service || ServiceOf(got[1]) != service {
			t.Fatalf("slices of %s: %v, %v", service, got, err)
		}
	}
	if got := slices.ListIndexFuncValues(byService); len(got) > buckets {
		t.Errorf("the index has %d sets, for at most %d", len(got), buckets)
	}
}
