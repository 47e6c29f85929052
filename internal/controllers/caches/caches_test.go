package caches

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

func service(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: name, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}}
}

// byName is an index that is asked for anew at each run.
var byName = cache.Indexers{"name": func(obj any) ([]string, error) { return []string{obj.(*corev1.Service).Name}, nil }}

// open gives a view that reports each Service it sees.
func open(t *testing.T, ctx context.Context, client *fake.Clientset, shared *Shared) (*View, chan string) {
	t.Helper()
	v := Open(ctx, client, shared)
	seen := make(chan string, 10)
	informer := v.Core().V1().Services().Informer()
	v.Index(informer, byName)
	v.OnAny(informer, func(obj any) { seen <- obj.(*corev1.Service).Name })
	ok, err := v.Ready()
	if !ok || err != nil {
		t.Fatalf("ready: %v %v", ok, err)
	}
	return v, seen
}

func TestViewEndsAndCacheStays(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	client := fake.NewClientset(service("a"))
	shared := Share(ctx, client, nil)
	first, seen := open(t, ctx, client, shared)
	if got := <-seen; got != "a" {
		t.Errorf("first saw %s", got)
	}
	other, others := open(t, ctx, client, shared)
	<-others
	first.Close()
	again, seenAgain := open(t, ctx, client, shared) // a second run, the same indexes
	if got := <-seenAgain; got != "a" {
		t.Errorf("the second run saw %s", got)
	}
	if _, err := client.CoreV1().Services("default").Create(ctx, service("b"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := <-others; got != "b" {
		t.Errorf("the other saw %s: its watch must outlive the first run", got)
	}
	<-seenAgain
	if len(seen) != 0 {
		t.Error("a closed view was called")
	}
	lists := 0
	for _, a := range client.Actions() {
		if a.Matches("list", "services") {
			lists++
		}
	}
	if lists > 1 {
		t.Errorf("%d lists for three views, want one", lists)
	}
	obj := again.Core().V1().Services().Informer().GetIndexer().List()[0].(*corev1.Service)
	if obj.ManagedFields != nil {
		t.Error("managed fields are kept")
	}
	cancel()
	other.Close()
	again.Close()
	shared.Close()
}

func TestOwnCachesEndWithTheView(t *testing.T) {
	v, seen := open(t, t.Context(), fake.NewClientset(service("a")), nil)
	<-seen
	v.Close() // returns only when the watches have ended
	if !v.Core().V1().Services().Informer().IsStopped() {
		t.Error("the informer still runs")
	}
}

func TestNotReadyWhenTheContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	v := Open(ctx, fake.NewClientset(), nil)
	defer v.Close()
	v.OnAny(v.Core().V1().Services().Informer(), func(any) {})
	if ok, err := v.Ready(); ok || err != nil {
		t.Errorf("ready: %v %v", ok, err)
	}
}
