package machines

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/kubevirt/fake"
)

// Run sees machines that were there before and machines that come, and ends
// with its context.
func TestRun(t *testing.T) {
	clk := clock.RealClock{}
	w := &world{t: t, machines: fake.New(clk)}
	client := kubefake.NewClientset()
	pods := make(chan string, 2)
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		pods <- a.(clienttesting.CreateAction).GetObject().(*corev1.Pod).Labels["vm.kubevirt.io/name"]
		return false, nil, nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	w.create("before", kubevirtv1.RunStrategyAlways)
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, Deps{Client: client, Machines: w.machines, Log: slog.New(slog.DiscardHandler)})
	}()
	for _, want := range []string{"before", "after"} {
		if want == "after" {
			w.create("after", kubevirtv1.RunStrategyAlways)
		}
		select {
		case got := <-pods:
			if got != want {
				t.Errorf("a pod for %s, want %s", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("no pod for %s", want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
