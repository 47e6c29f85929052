package apiserver_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/core/rbac"
)

// A part of the process that acts as a node may do what that node may, and nothing more.
func TestPartsOfTheProcessAreLimited(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	store, err := etcd.StartEmbedded(t.Context(), dir+"/etcd", log)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	config, err := apitest.Config(store, dir, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	server, err := apiserver.New(ctx, config)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	as, err := server.ConfigAs(rbac.NodeUserPrefix+"a", rbac.NodesGroup)
	if err != nil {
		t.Fatal(err)
	}
	node, err := kubernetes.NewForConfig(as)
	if err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the server is ready", func() error {
		return node.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
	// The authorizer hears of the roles by a watch of its own.
	apitest.Eventually(t, "the node's list of Services", func() error {
		_, err := node.CoreV1().Services("").List(ctx, metav1.ListOptions{})
		return err
	})
	create := func(name string) error {
		_, err := node.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	if err := create("a"); err != nil {
		t.Errorf("its own Node: %v", err)
	}
	if err := create("b"); err == nil || !strings.Contains(err.Error(), `node "a" is not allowed to modify node "b"`) {
		t.Errorf("another Node: %v", err)
	}
	if _, err := node.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); err == nil || !strings.Contains(err.Error(), `User "system:node:a" cannot list resource "secrets"`) {
		t.Errorf("Secrets: %v", err)
	}
	as.BearerToken += "0"
	stranger, err := kubernetes.NewForConfig(as)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.CoreV1().Services("").List(ctx, metav1.ListOptions{}); err == nil || !strings.Contains(err.Error(), "nauthorized") {
		t.Errorf("another token: %v", err)
	}
}
