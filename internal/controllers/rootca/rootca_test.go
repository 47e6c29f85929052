package rootca_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/namesake"
	"portico.dev/portico/internal/controllers/rootca"
)

// OPS-05: every namespace has the authority's certificate, whatever is done to it, until
// the namespace ends.
func TestEveryNamespaceKnowsTheAuthority(t *testing.T) {
	s := apitest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	want := string(s.Authority.PEM())
	namespace := func(name string, finalizers ...string) {
		t.Helper()
		_, err := s.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	right := func(what, namespace string) {
		t.Helper()
		apitest.Eventually(t, what, func() error {
			m, err := s.Kube.CoreV1().ConfigMaps(namespace).Get(ctx, rootca.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(m.Data) != 1 || m.Data["ca.crt"] != want || len(m.BinaryData) > 0 {
				return fmt.Errorf("it holds %v %v", m.Data, m.BinaryData)
			}
			return nil
		})
	}
	maps := s.Kube.CoreV1().ConfigMaps("a")
	patch := func(body string) {
		t.Helper()
		if _, err := maps.Patch(ctx, rootca.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	remove := func() {
		t.Helper()
		if err := maps.Delete(ctx, rootca.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	namespace("a")
	go func() {
		ended <- rootca.Run(ctx, namesake.Deps{Client: s.Kube, Log: slog.New(slog.DiscardHandler)}, s.Authority.PEM())
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	right("a namespace that was there", "a")
	namespace("b")
	right("a new namespace", "b")

	patch(`{"data":{"ca.crt":"forged","more":"x"},"binaryData":{"y":"eA=="}}`)
	right("changed", "a")
	remove()
	right("deleted", "a")
	remove()
	if _, err := maps.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: rootca.Name}, Data: map[string]string{"ca.crt": "forged"}, Immutable: new(true),
	}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	right("forged by somebody faster, for good", "a")

	namespace("ending", "example.com/wait")
	right("before its end", "ending")
	if err := s.Kube.CoreV1().Namespaces().Delete(ctx, "ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Kube.CoreV1().ConfigMaps("ending").Delete(ctx, rootca.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	namespace("c") // a write after it shows that the deletion was looked at
	right("a later namespace", "c")
	apitest.Eventually(t, "nothing in a namespace that ends", func() error {
		if _, err := s.Kube.CoreV1().ConfigMaps("ending").Get(ctx, rootca.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("it is there"), err)
		}
		return nil
	})
}
