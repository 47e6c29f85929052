package serviceaccounts

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/fake"

	"portico.dev/portico/internal/controllers/namesake"
	"portico.dev/portico/test/fakewatch"
)

func TestEveryNamespaceHasItsAccount(t *testing.T) {
	t.Parallel()
	namespace := func(name string) *corev1.Namespace {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	ending := namespace("ending")
	ending.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	own := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: "b", UID: "own"}}
	kube := fake.NewClientset(namespace("a"), namespace("b"), ending, own)
	watched := fakewatch.Of(t, kube, "namespaces", "serviceaccounts")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, namesake.Deps{Client: kube, Log: slog.New(slog.DiscardHandler)}) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	get := func(ns string) (*corev1.ServiceAccount, error) {
		return kube.CoreV1().ServiceAccounts(ns).Get(ctx, Name, metav1.GetOptions{})
	}
	exists := func(ns string) {
		t.Helper()
		if err := wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) {
			_, err := get(ns)
			return err == nil, nil
		}); err != nil {
			t.Fatalf("namespace %s: %v", ns, err)
		}
	}
	exists("a")
	watched()
	if err := kube.CoreV1().ServiceAccounts("a").Delete(ctx, Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	exists("a") // made anew
	if _, err := kube.CoreV1().Namespaces().Create(ctx, namespace("c"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	exists("c")
	if sa, err := get("b"); err != nil || sa.UID != types.UID("own") {
		t.Errorf("an account that was there: %v %v", sa, err)
	}
	if _, err := get("ending"); err == nil {
		t.Error("a namespace that ends got an account")
	}
}
