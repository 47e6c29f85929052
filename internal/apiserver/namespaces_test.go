package apiserver_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/apiserver/apitest"
)

// API-13: a namespace is Terminating, and takes nothing new, until somebody has
// emptied it and taken its finalizer away.
func TestNamespaceEndsInTwoSteps(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := context.Background()
	namespaces := s.Kube.CoreV1().Namespaces()
	ns := makeNamespace(t, s, "gone")
	if ns.Status.Phase != corev1.NamespaceActive || ns.Labels["kubernetes.io/metadata.name"] != "gone" || len(ns.Spec.Finalizers) != 1 {
		t.Errorf("got %+v", ns)
	}
	ask(t, s, "POST", "/api/v1/namespaces", `{"metadata":{"generateName":"gen-"}}`).want(t, 201, `"kubernetes.io/metadata.name":"gen-`)
	if err := namespaces.Delete(ctx, "gone", *metav1.NewPreconditionDeleteOptions("another")); !apierrors.IsConflict(err) {
		t.Errorf("another UID: got %v, want 409", err)
	}
	if err := namespaces.Delete(ctx, "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns, err := namespaces.Get(ctx, "gone", metav1.GetOptions{})
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp == nil {
		t.Fatalf("got %v, %+v", err, ns)
	}
	apitest.Eventually(t, "the refusal of new objects", func() error { // admission sees it by a watch
		_, err := s.Kube.CoreV1().ConfigMaps("gone").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "late-"}}, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		return context.DeadlineExceeded
	})
	ns.Spec.Finalizers = nil
	if updated, err := namespaces.Update(ctx, ns, metav1.UpdateOptions{}); err != nil || len(updated.Spec.Finalizers) != 1 {
		t.Errorf("a plain update took the finalizer: %v, %+v", err, updated.Spec)
	} else {
		ns.ResourceVersion = updated.ResourceVersion
	}
	if _, err := namespaces.Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := namespaces.Get(ctx, "gone", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("got %v, want 404", err)
	}
	for name, want := range map[string]int{"default": 403, "kube-system": 403} {
		ask(t, s, "DELETE", "/api/v1/namespaces/"+name, "").want(t, want)
	}
	// It would go past the two steps.
	ask(t, s, "DELETE", "/api/v1/namespaces", "").want(t, 405)
	ask(t, s, "GET", "/api/v1/namespaces/default", "").want(t, 200)
}
