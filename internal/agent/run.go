package agent

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/ipam"
)

// Run watches Services, EndpointSlices, the Node of that name and ServiceCIDRs, and
// hands them to the consumers until ctx ends. Nothing is handed over before all were
// listed once. While the API is away the consumers keep what they have.
func Run(ctx context.Context, client kubernetes.Interface, nodeName string, log *slog.Logger, ranges Ranges, consumers ...Consumer) error {
	s := newState(nodeName)
	var group sync.WaitGroup
	for _, r := range s.reflectors(client, nodeName, log) {
		group.Go(func() { r.RunWithContext(ctx) })
	}
	defer group.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.news:
			s.handOver(ranges, consumers)
		}
	}
}

// reflectors watch one resource each and put its compact values into s. The API
// objects are garbage as soon as they were translated.
func (s *state) reflectors(client kubernetes.Interface, nodeName string, log *slog.Logger) []*cache.Reflector {
	services := client.CoreV1().Services(metav1.NamespaceAll)
	endpoints := client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	nodes := client.CoreV1().Nodes()
	cidrs := client.NetworkingV1().ServiceCIDRs()
	byName := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, nodeName).String()
	}
	return []*cache.Reflector{
		reflector(client, "services", log, nil, lister(services.List), services.Watch, &store[*corev1.Service]{
			state: s, listed: listedServices,
			put:   func(o *corev1.Service) { s.putService(nameOf(o), catalog.FromService(o)) },
			del:   func(name types.NamespacedName) { s.putService(name, nil) },
			names: func() []types.NamespacedName { return keys(s.services) },
		}),
		reflector(client, "endpointslices", log, nil, lister(endpoints.List), endpoints.Watch, &store[*discoveryv1.EndpointSlice]{
			state: s, listed: listedSlices,
			put:   func(o *discoveryv1.EndpointSlice) { s.putSlice(nameOf(o), catalog.FromSlice(o)) },
			del:   func(name types.NamespacedName) { s.putSlice(name, nil) },
			names: func() []types.NamespacedName { return keys(s.owner) },
		}),
		reflector(client, "node", log, byName, lister(nodes.List), nodes.Watch, &store[*corev1.Node]{
			state: s, listed: listedNode,
			put:   func(o *corev1.Node) { s.putNode(catalog.FromNode(o)) },
			del:   func(types.NamespacedName) { s.putNode(nil) },
			names: func() []types.NamespacedName { return nil },
		}),
		reflector(client, "servicecidrs", log, nil, s.whereServed(lister(cidrs.List), log), cidrs.Watch, &store[*networkingv1.ServiceCIDR]{
			state: s, listed: listedCIDRs,
			put:   func(o *networkingv1.ServiceCIDR) { s.putCIDR(nameOf(o), ipam.Prefixes(o)) },
			del:   func(name types.NamespacedName) { s.putCIDR(name, nil) },
			names: func() []types.NamespacedName { return keys(s.cidrs) },
		}),
	}
}

type (
	listFunc  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watchFunc func(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
)

// lister loses the type of a typed client's list.
func lister[L runtime.Object](list func(context.Context, metav1.ListOptions) (L, error)) listFunc {
	return func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return list(ctx, o) }
}

func reflector[O object](client kubernetes.Interface, name string, log *slog.Logger, tweak func(*metav1.ListOptions), list listFunc, watch watchFunc, into *store[O]) *cache.Reflector {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if tweak != nil {
				tweak(&o)
			}
			return list(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			if tweak != nil {
				tweak(&o)
			}
			return watch(ctx, o)
		},
	}
	logger := logr.FromSlogHandler(log.Handler())
	var expected O
	return cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), expected, into,
		cache.ReflectorOptions{Name: "agent/" + name, Logger: &logger})
}

// object is what the store takes.
type object interface {
	runtime.Object
	metav1.Object
}

// store is a cache.ReflectorStore that keeps no objects.
type store[O object] struct {
	state  *state
	listed int
	put    func(O)                       // state.mu is held
	del    func(types.NamespacedName)    // state.mu is held
	names  func() []types.NamespacedName // all that is held; state.mu is held
}

func (s *store[O]) change(obj any, f func(O)) error {
	o, ok := obj.(O)
	if !ok {
		return fmt.Errorf("the watch gave a %T", obj)
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	f(o)
	s.state.wake()
	return nil
}

// Add implements cache.ReflectorStore.
func (s *store[O]) Add(obj any) error { return s.change(obj, s.put) }

// Update implements cache.ReflectorStore.
func (s *store[O]) Update(obj any) error { return s.change(obj, s.put) }

// Delete implements cache.ReflectorStore.
func (s *store[O]) Delete(obj any) error {
	return s.change(obj, func(o O) { s.del(nameOf(o)) })
}

// Replace implements cache.ReflectorStore: objs are all there are.
func (s *store[O]) Replace(objs []any, _ string) error {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	there := make(map[types.NamespacedName]bool, len(objs))
	for _, obj := range objs {
		o, ok := obj.(O)
		if !ok {
			return fmt.Errorf("the list holds a %T", obj)
		}
		there[nameOf(o)] = true
		s.put(o)
	}
	for _, name := range s.names() {
		if !there[name] {
			s.del(name)
		}
	}
	s.state.listed[s.listed] = true
	s.state.wake()
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do again.
func (s *store[O]) Resync() error { return nil }

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func keys[V any](m map[types.NamespacedName]V) []types.NamespacedName {
	return slices.Collect(maps.Keys(m))
}
