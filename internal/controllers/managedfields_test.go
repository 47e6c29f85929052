package controllers_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/caches"
)

// An object read from the shared caches, which keep no managed fields, can be
// written back without taking them from the server's.
func TestWriteFromCachesKeepsManagedFields(t *testing.T) {
	s := &cluster{T: t, Server: apitest.Start(t)}
	s.namespace("default")
	services := s.Kube.CoreV1().Services("default")
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := services.Create(t.Context(), svc, metav1.CreateOptions{FieldManager: "owner"}); err != nil {
		t.Fatal(err)
	}
	view := caches.Open(t.Context(), s.Kube, nil)
	defer view.Close()
	lister := view.Core().V1().Services().Lister()
	if ok, err := view.Ready(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	view.WaitForCacheSync(t.Context().Done())
	cached, err := lister.Services("default").Get("web")
	if err != nil {
		t.Fatal(err)
	}
	next := cached.DeepCopy()
	next.Annotations = map[string]string{"example.com/touched": "yes"}
	got, err := services.Update(t.Context(), next, metav1.UpdateOptions{FieldManager: "controller"})
	if err != nil {
		t.Fatal(err)
	}
	managers := map[string]bool{}
	for _, f := range got.ManagedFields {
		managers[f.Manager] = true
	}
	if !managers["owner"] || !managers["controller"] {
		t.Errorf("managers are %v, want owner and controller", managers)
	}
}
