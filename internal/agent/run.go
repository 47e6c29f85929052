package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/ipam"
)

// Watches follow Services, EndpointSlices, one Node and ServiceCIDRs.
type Watches struct {
	state *state
	group sync.WaitGroup
}

// Watch begins to follow what the node of that name needs, until ctx ends. It is begun
// early: the first lists take their time.
func Watch(ctx context.Context, client kubernetes.Interface, nodeName string, log *slog.Logger) *Watches {
	w := &Watches{state: newState(nodeName)}
	for _, f := range w.state.followers(client, nodeName, log) {
		w.group.Go(func() { f.run(ctx) })
	}
	return w
}

// Wait returns when nothing is followed any more.
func (w *Watches) Wait() { w.group.Wait() }

// Feed hands all to the consumers until ctx ends. Nothing is handed over before all were
// listed once. While the API is away the consumers keep what they have.
func (w *Watches) Feed(ctx context.Context, ranges Ranges, consumers ...Consumer) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.state.news:
			w.state.handOver(ranges, consumers)
		}
	}
}

// Run watches and feeds until ctx ends.
func Run(ctx context.Context, client kubernetes.Interface, nodeName string, log *slog.Logger, ranges Ranges, consumers ...Consumer) error {
	w := Watch(ctx, client, nodeName, log)
	w.Feed(ctx, ranges, consumers...)
	w.Wait()
	return nil
}

// followers follow one resource each and put its compact values into s. The API
// objects are garbage as soon as they were translated, those of a long first list too.
func (s *state) followers(client kubernetes.Interface, nodeName string, log *slog.Logger) []*follower {
	services := client.CoreV1().Services(metav1.NamespaceAll)
	endpoints := client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	nodes := client.CoreV1().Nodes()
	cidrs := client.NetworkingV1().ServiceCIDRs()
	return []*follower{
		follow[*corev1.Service](client, "services", log, nil, lister(services.List), services.Watch, &store[*corev1.Service, *catalog.Service]{
			state: s, listed: listedServices, translate: catalog.FromService,
			put:   s.putService,
			names: func() []types.NamespacedName { return keys(s.services) },
		}),
		follow[*discoveryv1.EndpointSlice](client, "endpointslices", log, nil, lister(endpoints.List), endpoints.Watch, &store[*discoveryv1.EndpointSlice, *catalog.Slice]{
			state: s, listed: listedSlices, translate: newNames().fromSlice,
			put:   s.putSlice,
			names: func() []types.NamespacedName { return keys(s.owner) },
		}),
		followOne[*corev1.Node](client, "node", nodeName, log, lister(nodes.List), nodes.Watch, &store[*corev1.Node, *catalog.Node]{
			state: s, listed: listedNode, translate: catalog.FromNode,
			put:   func(_ types.NamespacedName, n *catalog.Node) { s.putNode(n) },
			names: func() []types.NamespacedName { return nil },
		}),
		follow[*networkingv1.ServiceCIDR](client, "servicecidrs", log, nil, s.whereServed(lister(cidrs.List), log), cidrs.Watch, &store[*networkingv1.ServiceCIDR, []netip.Prefix]{
			state: s, listed: listedCIDRs, translate: ipam.Prefixes,
			put:   s.putCIDR,
			names: func() []types.NamespacedName { return keys(s.cidrs) },
		}),
	}
}

// object is what the store takes.
type object interface {
	runtime.Object
	metav1.Object
}

// store is a cache.TransformingStore that keeps no objects: it translates each when
// it comes, and so does the reflector for it while it collects a list that is
// streamed (KEP-3157), which would otherwise be held whole.
type store[O object, V any] struct {
	state     board
	listed    int
	translate func(O) V                     // called from the reflector's goroutine only
	put       func(types.NamespacedName, V) // the zero value for what is gone; the lock is held
	names     func() []types.NamespacedName // all that is held; the lock is held
}

// board is what stores put their values on.
type board interface {
	sync.Locker
	wake()       // tells who hands the news over; the lock is held
	first(n int) // the first list of a resource is here; the lock is held
}

// compact is what a store keeps of an object.
type compact[V any] struct {
	name  types.NamespacedName
	value V
}

// Transformer implements cache.TransformingStore.
func (s *store[O, V]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return s.compact(obj) }
}

// compact takes an object, or what it made of one before.
func (s *store[O, V]) compact(obj any) (*compact[V], error) {
	switch o := obj.(type) {
	case *compact[V]:
		return o, nil
	case O:
		return &compact[V]{nameOf(o), s.translate(o)}, nil
	}
	return nil, fmt.Errorf("the watch gave a %T", obj)
}

// Add implements cache.ReflectorStore.
func (s *store[O, V]) Add(obj any) error {
	c, err := s.compact(obj)
	if err != nil {
		return err
	}
	s.change(c.name, c.value)
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store[O, V]) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *store[O, V]) Delete(obj any) error {
	o, ok := obj.(O)
	if !ok {
		return fmt.Errorf("the watch took away a %T", obj)
	}
	var gone V
	s.change(nameOf(o), gone)
	return nil
}

func (s *store[O, V]) change(name types.NamespacedName, value V) {
	s.state.Lock()
	defer s.state.Unlock()
	s.put(name, value)
	s.state.wake()
}

// Replace implements cache.ReflectorStore: objs are all there are.
func (s *store[O, V]) Replace(objs []any, _ string) error {
	s.state.Lock()
	defer s.state.Unlock()
	there := make(map[types.NamespacedName]bool, len(objs))
	for _, obj := range objs {
		c, err := s.compact(obj)
		if err != nil {
			return err
		}
		there[c.name] = true
		s.put(c.name, c.value)
	}
	var gone V
	for _, name := range s.names() {
		if !there[name] {
			s.put(name, gone)
		}
	}
	s.state.first(s.listed)
	s.state.wake()
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do again.
func (s *store[O, V]) Resync() error { return nil }

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func keys[V any](m map[types.NamespacedName]V) []types.NamespacedName {
	return slices.Collect(maps.Keys(m))
}
