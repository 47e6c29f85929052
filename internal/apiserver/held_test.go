package apiserver_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/caches"
)

func namedService(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

// Caches that share the server's memory see what clients over the network see: the same
// objects, versions and ends.
func TestHeldObjectsAreWhatClientsRead(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	local, err := kubernetes.NewForConfig(s.Local)
	if err != nil {
		t.Fatal(err)
	}
	services := s.Kube.CoreV1().Services("default")
	old, err := services.Create(ctx, namedService("before"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	taken := 0
	held := func(obj runtime.Object) runtime.Object {
		same := s.Held(obj)
		if same != nil {
			taken++
		}
		return same
	}
	near, far := caches.Share(ctx, local, held), caches.Share(ctx, s.Kube, nil)
	defer far.Close()
	defer near.Close()
	defer cancel()
	var stores []cache.Store
	for _, shared := range []*caches.Shared{near, far} {
		view := caches.Open(ctx, nil, shared)
		defer view.Close()
		informer := view.Core().V1().Services().Informer()
		stores = append(stores, informer.GetStore())
		view.OnAny(informer, func(any) {})
		if ok, err := view.Ready(); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	for n := range 20 {
		name := fmt.Sprint("svc-", n)
		if _, err := services.Create(ctx, namedService(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 {
			if _, err := services.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"a":"b"}}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if n%5 == 0 {
			if err := services.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	list, err := services.List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, where := range []string{"in this process", "over the network"} {
		apitest.Eventually(t, "the cache "+where, func() error {
			if got := len(stores[i].ListKeys()); got != len(list.Items) {
				return fmt.Errorf("%d objects, want %d", got, len(list.Items))
			}
			for _, want := range list.Items {
				obj, ok, err := stores[i].GetByKey("default/" + want.Name)
				if err != nil || !ok {
					return fmt.Errorf("%s: %v, %v", want.Name, ok, err)
				}
				got := obj.(*corev1.Service).DeepCopy()
				got.ManagedFields, want.ManagedFields = nil, nil // a cache may have them or not
				if !apiequality.Semantic.DeepEqual(got, &want) {
					return fmt.Errorf("%s: got %+v, want %+v", want.Name, got, want)
				}
			}
			return nil
		})
	}
	cancel()
	near.Close() // its watches have ended
	if taken == 0 {
		t.Error("nothing was shared")
	}
	if old.ResourceVersion = "1"; s.Held(old) != nil {
		t.Error("another version is held")
	}
}

// The parts that objects share aren't changed by writes to one of them, and what informers
// take away is still there for clients. (API-09)
func TestHeldObjectsStayAsTheyWereRead(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	services := s.Kube.CoreV1().Services("default")
	cached := func(name string) (*corev1.Service, error) {
		return services.Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	}
	for _, name := range []string{"kept", "updated", "patched", "applied", "ending"} {
		svc := namedService(name)
		if name == "ending" {
			svc.Finalizers = []string{"example.org/wait"}
		}
		if _, err := services.Create(ctx, svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	var kept *corev1.Service
	var held runtime.Object
	apitest.Eventually(t, "the watch cache", func() error {
		svc, err := services.Get(ctx, "kept", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if held = s.Held(svc); held == nil {
			return fmt.Errorf("version %s isn't held", svc.ResourceVersion)
		}
		kept = svc
		return nil
	})
	if len(kept.ManagedFields) == 0 {
		t.Fatal("the server tracks no managed fields")
	}
	before := held.DeepCopyObject()

	change := namedService("updated")
	change.Labels = map[string]string{"app": "other", "more": "labels"}
	if _, err := services.Update(ctx, change, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := []byte(`{"metadata":{"labels":{"app":"other","new":"one"}},"spec":{"ports":[{"port":80,"name":"http"}]}}`)
	if _, err := services.Patch(ctx, "patched", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	apply := []byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"applied","labels":{"app":"applied"}}}`)
	force := true
	if _, err := services.Patch(ctx, "applied", types.ApplyPatchType, apply, metav1.PatchOptions{FieldManager: "test", Force: &force}); err != nil {
		t.Fatal(err)
	}
	if err := services.Delete(ctx, "ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := services.Patch(ctx, "ending", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the watch cache follows", func() error {
		svc, err := cached("applied")
		if err != nil {
			return err // it may not even have come yet
		}
		if got := svc.Labels["app"]; got != "applied" {
			return fmt.Errorf("app=%s", got)
		}
		return nil
	})
	if got, err := cached("kept"); err != nil {
		t.Error(err)
	} else if !apiequality.Semantic.DeepEqual(got, kept) {
		t.Errorf("a Service nobody wrote to became %+v", got)
	}
	if !apiequality.Semantic.DeepEqual(held, before) {
		t.Errorf("a held object became %+v", held)
	}
}
