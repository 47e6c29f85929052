package announce

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/core/announcing"
)

// watchNodes follows all Nodes until ctx ends. While the API is away the last ones stay.
func (c *Collector) watchNodes(ctx context.Context) {
	nodes := c.config.Client.CoreV1().Nodes()
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return nodes.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			return nodes.Watch(ctx, o)
		},
	}
	logger := logr.FromSlogHandler(c.config.Log.Handler())
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, c.config.Client), &corev1.Node{}, nodeStore{c},
		cache.ReflectorOptions{Name: "announce/nodes", Logger: &logger}).RunWithContext(ctx)
}

// nodeStore is a cache.ReflectorStore that keeps the Collector's nodes.
type nodeStore struct{ c *Collector }

// Add implements cache.ReflectorStore.
func (s nodeStore) Add(obj any) error {
	n, err := fromNode(obj)
	if err != nil {
		return err
	}
	s.c.mu.Lock()
	news := !reflect.DeepEqual(s.c.nodes[n.Name], n) // a heartbeat is none
	s.c.nodes[n.Name] = n
	s.c.mu.Unlock()
	if news {
		s.c.poke()
	}
	return nil
}

// Update implements cache.ReflectorStore.
func (s nodeStore) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s nodeStore) Delete(obj any) error {
	n, err := fromNode(obj)
	if err != nil {
		return err
	}
	s.c.change(fromNodes, func() { delete(s.c.nodes, n.Name) })
	return nil
}

// Replace implements cache.ReflectorStore.
func (s nodeStore) Replace(objs []any, _ string) error {
	all := make(map[string]announcing.Node, len(objs))
	for _, obj := range objs {
		n, err := fromNode(obj)
		if err != nil {
			return err
		}
		all[n.Name] = n
	}
	s.c.change(fromNodes, func() { s.c.nodes = all })
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do again.
func (s nodeStore) Resync() error { return nil }

func fromNode(obj any) (announcing.Node, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return announcing.Node{}, fmt.Errorf("the watch gave a %T", obj)
	}
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	out := announcing.Node{Name: n.Name, Labels: n.Labels, Excluded: excluded, Draining: n.Spec.Unschedulable}
	out.Ready = slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			out.Addresses = append(out.Addresses, addr.Unmap())
		}
	}
	return out, nil
}
