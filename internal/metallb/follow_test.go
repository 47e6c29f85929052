package metallb

import (
	"fmt"
	"log/slog"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/scheme"

	core "portico.dev/portico/internal/core/metallb"
)

// LB-01: no configuration has a part of the pools only, though another kind's news come
// while they are taken from the list: Services would lose the others' addresses.
func TestListsAreTakenWhole(t *testing.T) {
	t.Parallel()
	const many = 500
	items := make([]unstructured.Unstructured, many)
	for i := range items {
		items[i].SetName(fmt.Sprint("pool-", i))
		items[i].SetResourceVersion("1")
	}
	for range 20 {
		f := &follower{log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1)}
		pools := follow(f, dynamicfake.NewSimpleDynamicClient(scheme.Scheme), Pools, func(c *core.Config, l []*core.IPAddressPool) { c.Pools = l }).(*objects[core.IPAddressPool])
		taken := make(chan struct{})
		go func() {
			defer close(taken)
			pools.replace(items)
		}()
		var config *core.Config
		for config == nil {
			config = f.config([]kind{pools})
		}
		if len(config.Pools) != many {
			t.Errorf("a configuration has %d of %d pools", len(config.Pools), many)
		}
		<-taken
	}
}
