package apiserver_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// Services are selected by their fields: in lists of the newest state and of any, in
// watches from a version on and from the beginning. (API-09)
func TestServicesAreSelectedByField(t *testing.T) {
	s := start(t)
	services := s.Kube.CoreV1().Services("default")
	for _, name := range []string{"other", "wanted"} {
		svc := namedService(name)
		if name == "wanted" {
			svc.Spec.Type = corev1.ServiceTypeNodePort
		}
		if _, err := services.Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := services.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change := namedService("wanted")
	change.Spec.Type = corev1.ServiceTypeNodePort
	change.Labels = map[string]string{"app": "changed"}
	if _, err := services.Update(t.Context(), change, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, selector := range []string{"metadata.name=wanted", "metadata.name!=other,metadata.namespace=default", "spec.type=NodePort"} {
		for _, version := range []string{"", "0"} {
			for _, namespace := range []string{"default", metav1.NamespaceAll} {
				got, err := s.Kube.CoreV1().Services(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: selector, ResourceVersion: version})
				if err != nil || len(got.Items) != 1 || got.Items[0].Name != "wanted" {
					t.Errorf("list in %q by %s at %q: %v, %v", namespace, selector, version, got, err)
				}
			}
		}
		for version, want := range map[string]watch.EventType{list.ResourceVersion: watch.Modified, "0": watch.Added} {
			w, err := services.Watch(t.Context(), metav1.ListOptions{FieldSelector: selector, ResourceVersion: version})
			if err != nil {
				t.Fatal(err)
			}
			select {
			case event := <-w.ResultChan():
				if svc, ok := event.Object.(*corev1.Service); !ok || event.Type != want || svc.Name != "wanted" {
					t.Errorf("watch by %s from %q: %s %v", selector, version, event.Type, event.Object)
				}
			case <-time.After(20 * time.Second):
				t.Errorf("watch by %s from %q: nothing came", selector, version)
			}
			w.Stop()
		}
	}
}
