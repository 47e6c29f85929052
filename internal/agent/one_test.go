package agent

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestWatchOneFollowsAnObject(t *testing.T) {
	kube := fake.NewClientset()
	maps := kube.CoreV1().ConfigMaps("kube-system")
	ctx, cancel := context.WithCancel(t.Context())
	news, done := make(chan string, 10), make(chan struct{})
	go func() {
		defer close(done)
		WatchOne(ctx, kube, maps, "one", slog.New(slog.DiscardHandler), func(m *corev1.ConfigMap) {
			if m == nil {
				news <- "none"
				return
			}
			news <- m.Data["key"]
		})
	}()
	defer func() { cancel(); <-done }()
	want := func(text string) {
		t.Helper()
		select {
		case got := <-news:
			if got != text {
				t.Fatalf("got %q, want %q", got, text)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no news, want %q", text)
		}
	}
	want("none")
	m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Data: map[string]string{"key": "made"}}
	if _, err := maps.Create(ctx, m, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("made")
	m.Data["key"] = "changed"
	if _, err := maps.Update(ctx, m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("changed")
	if err := maps.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("none")
}
