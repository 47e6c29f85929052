package greet

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"portico.dev/portico/test/fakewatch"
)

// The first who needs the key makes it; a changed one is accepted at once and signs later;
// a Secret that is gone or useless changes nothing.
func TestFollowKey(t *testing.T) {
	kube := fake.NewClientset()
	watched := fakewatch.Of(t, kube, "secrets")
	ctx, cancel := context.WithCancel(context.Background())
	keys := make(chan [][]byte, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		FollowKey(ctx, kube, slog.New(slog.DiscardHandler), func(k [][]byte) { keys <- k })
	}()
	defer func() { cancel(); <-done }()
	next := func() [][]byte {
		t.Helper()
		select {
		case k := <-keys:
			return k
		case <-time.After(20 * time.Second):
			t.Fatal("no key within 20 s")
			return nil
		}
	}
	first := next()
	if len(first) != 1 || len(first[0]) != keySize {
		t.Fatalf("keys %x", first)
	}
	watched()
	secrets := kube.CoreV1().Secrets(SecretNamespace)
	secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range [][]byte{[]byte("short"), []byte("another key of enough bytes")} {
		secret.Data = map[string][]byte{secretKey: key}
		if secret, err = secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := next(); len(got) != 2 || !bytes.Equal(got[0], first[0]) || string(got[1]) != "another key of enough bytes" {
		t.Errorf("keys %q", got)
	}
	if err := EnsureKey(ctx, kube); err != nil {
		t.Error(err)
	}
	if now, err := secrets.Get(ctx, SecretName, metav1.GetOptions{}); err != nil || !bytes.Equal(now.Data[secretKey], secret.Data[secretKey]) {
		t.Errorf("EnsureKey changed a key that was there, or %v", err)
	}
}
