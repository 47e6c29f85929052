package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/node/register"
)

// The role of nodes is enough for what an agent does all the time: register itself,
// keep its Lease, and watch what it turns into packets and names.
func TestAgentLivesWithTheRoleOfNodes(t *testing.T) {
	s := apitest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range []string{"default", "kube-node-lease"} {
		if _, err := s.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	cert, key, err := s.Authority.Client("system:node:a", "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(s.Config)
	config.CertData, config.KeyData = cert, key
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	reg := register.New(kube, register.Node{Name: "a", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Memory: 1 << 30, Version: "test"}, log)
	go cutPodRange(ctx, s.Kube)
	if _, err := reg.Register(ctx); err != nil {
		t.Fatal(err)
	}

	seen, ranges := make(chan struct{}), make(chan []netip.Prefix, 10)
	runCtx, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := reg.Run(runCtx, make(chan []netip.Addr), func() error { return nil }); err != nil && runCtx.Err() == nil {
			t.Error(err)
		}
	})
	parts.Go(func() {
		if err := agent.Run(runCtx, kube, "a", log, agent.Ranges{To: func(r []netip.Prefix) { ranges <- r }}, &firstView{seen: seen}); err != nil && runCtx.Err() == nil {
			t.Error(err)
		}
	})
	defer parts.Wait()
	defer stop()
	select {
	case <-seen:
	case <-ctx.Done():
		t.Fatal("the agent has seen nothing")
	}
	if r := <-ranges; len(r) == 0 {
		t.Error("the agent may not read ServiceCIDRs")
	}
	err = wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		node, err := s.Kube.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		_, err = s.Kube.CoordinationV1().Leases("kube-node-lease").Get(ctx, "a", metav1.GetOptions{})
		return err == nil && len(node.Status.Addresses) > 0, nil
	})
	if err != nil {
		t.Fatalf("the node's status and Lease: %v", err)
	}
}

// cutPodRange does what the nodes controller does.
func cutPodRange(ctx context.Context, kube kubernetes.Interface) {
	patch, _ := json.Marshal(map[string]any{"spec": map[string]any{"podCIDR": "10.244.0.0/24", "podCIDRs": []string{"10.244.0.0/24"}}})
	_ = wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		_, err := kube.CoreV1().Nodes().Patch(ctx, "a", types.MergePatchType, patch, metav1.PatchOptions{})
		return err == nil, nil
	})
}

// firstView closes seen at the first update.
type firstView struct {
	once sync.Once
	seen chan struct{}
}

func (v *firstView) Replace(*catalog.Node, []agent.View) { v.once.Do(func() { close(v.seen) }) }
func (v *firstView) Update([]agent.View)                 {}
