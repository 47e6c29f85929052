//lint:file-ignore SA1019 Endpoints is deprecated, and kept all the same (EP-04).

package endpoints

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/controllers/caches"
	core "portico.dev/portico/internal/core/endpoints"
)

// Indexes. With them an event costs what it concerns, not what exists.
const (
	bySelector = "endpoints/selector" // Services, by one pair of their selector
	byLabel    = "endpoints/label"    // pods, by each of their labels
	byNode     = "endpoints/node"     // pods, by node
)

// watch registers for events.
func (c *controller) watch(view *caches.View) {
	core, discovery := view.Core().V1(), view.Discovery().V1()
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		indexer  *cache.Indexer
		indexers cache.Indexers
		handler  cache.ResourceEventHandler
	}{
		{core.Services().Informer(), &c.services, cache.Indexers{bySelector: selectorIndex}, c.serviceHandler()},
		{core.Pods().Informer(), &c.pods, cache.Indexers{byLabel: labelIndex, byNode: nodeIndex}, c.podHandler()},
		{core.Nodes().Informer(), &c.nodes, nil, c.nodeHandler()},
		{discovery.EndpointSlices().Informer(), &c.slices, caches.SlicesByService(), c.sliceHandler()},
		{core.Endpoints().Informer(), &c.objects, nil, c.endpointsHandler()},
	} {
		view.Index(w.informer, w.indexers)
		*w.indexer = w.informer.GetIndexer()
		view.On(w.informer, w.handler)
	}
}

func (c *controller) serviceHandler() cache.ResourceEventHandler {
	return handler[*corev1.Service]{
		add:    func(s *corev1.Service, initial bool) { c.changed(nameOf(s), initial) },
		update: func(_, s *corev1.Service) { c.changed(nameOf(s), false) },
		gone:   func(s *corev1.Service) { c.changed(nameOf(s), false) },
	}
}

func (c *controller) podHandler() cache.ResourceEventHandler {
	return handler[*corev1.Pod]{
		add: func(p *corev1.Pod, initial bool) {
			if !initial { // at the start all Services are looked at anyway
				c.podChanged(p)
			}
		},
		update: func(old, p *corev1.Pod) {
			if core.PodChanged(old, p) {
				c.podChanged(old)
				c.podChanged(p)
			}
		},
		gone: c.podChanged,
	}
}

// podChanged queues the Services that select the pod.
func (c *controller) podChanged(pod *corev1.Pod) {
	for key, value := range pod.Labels {
		candidates, err := c.services.ByIndex(bySelector, caches.Bucket(pairKey(pod.Namespace, key, value)))
		if err != nil {
			c.Log.Error("look up Services by selector", "err", err)
			return
		}
		for _, obj := range candidates {
			if svc := obj.(*corev1.Service); core.Selects(svc, pod) {
				c.changed(nameOf(svc), false)
			}
		}
	}
}

func (c *controller) nodeHandler() cache.ResourceEventHandler {
	return handler[*corev1.Node]{
		add: func(n *corev1.Node, initial bool) {
			if !initial {
				c.nodeChanged(n)
			}
		},
		update: func(old, n *corev1.Node) {
			if zoneOf(old) != zoneOf(n) {
				c.nodeChanged(n)
			}
		},
		gone: c.nodeChanged,
	}
}

// nodeChanged: a node's zone stands in the endpoints of all its pods.
func (c *controller) nodeChanged(n *corev1.Node) {
	pods, err := c.pods.ByIndex(byNode, n.Name)
	if err != nil {
		c.Log.Error("look up pods by node", "err", err)
		return
	}
	for _, obj := range pods {
		c.podChanged(obj.(*corev1.Pod))
	}
}

// Slices are watched because somebody else may change or delete them.
func (c *controller) sliceHandler() cache.ResourceEventHandler {
	note := func(s *discoveryv1.EndpointSlice, deleted bool) {
		service := caches.ServiceOf(s)
		if service.Name == "" || !core.Managed(s) {
			return
		}
		if c.writtenSlices.seen(service, s, deleted) {
			c.queue.Add(service)
		}
	}
	return handler[*discoveryv1.EndpointSlice]{
		add: func(s *discoveryv1.EndpointSlice, _ bool) { note(s, false) },
		update: func(old, s *discoveryv1.EndpointSlice) {
			if was := caches.ServiceOf(old); was.Name != "" && (was != caches.ServiceOf(s) || core.Managed(old) != core.Managed(s)) {
				c.queue.Add(was) // somebody took it away from its Service
			}
			note(s, false)
		},
		gone: func(s *discoveryv1.EndpointSlice) { note(s, true) },
	}
}

func (c *controller) endpointsHandler() cache.ResourceEventHandler {
	note := func(e *corev1.Endpoints, deleted bool) {
		name := types.NamespacedName{Namespace: e.Namespace, Name: e.Name}
		if c.writtenObjects.seen(name, e, deleted) {
			c.changed(name, false) // news of hand-written ones, which are mirrored
		}
	}
	return handler[*corev1.Endpoints]{
		add: func(e *corev1.Endpoints, initial bool) {
			if initial {
				c.changed(types.NamespacedName{Namespace: e.Namespace, Name: e.Name}, true)
				return
			}
			note(e, false)
		},
		update: func(_, e *corev1.Endpoints) { note(e, false) },
		gone:   func(e *corev1.Endpoints) { note(e, true) },
	}
}

// changed queues a Service, and remembers since when it waits. What was there at
// the start changed at an unknown time.
func (c *controller) changed(service types.NamespacedName, initial bool) {
	if !initial {
		c.triggers.note(service, c.Clock.Now())
	}
	c.queue.Add(service)
}

// handler is an event handler for one type.
type handler[T metav1.Object] struct {
	add    func(object T, initial bool)
	update func(old, object T)
	gone   func(object T)
}

func (h handler[T]) OnAdd(obj any, initial bool) { h.add(obj.(T), initial) }

func (h handler[T]) OnUpdate(old, obj any) {
	if old.(T).GetResourceVersion() != obj.(T).GetResourceVersion() || obj.(T).GetResourceVersion() == "" {
		h.update(old.(T), obj.(T))
	}
}

func (h handler[T]) OnDelete(obj any) {
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = t.Obj
	}
	if object, ok := obj.(T); ok {
		h.gone(object)
	}
}

// selectorIndex files a Service under the first pair of its selector: a pod it
// selects has that label too.
func selectorIndex(obj any) ([]string, error) {
	svc := obj.(*corev1.Service)
	if !core.HasPodEndpoints(svc) {
		return nil, nil
	}
	first := ""
	for key := range svc.Spec.Selector {
		if first == "" || key < first {
			first = key
		}
	}
	return []string{caches.Bucket(pairKey(svc.Namespace, first, svc.Spec.Selector[first]))}, nil
}

func labelIndex(obj any) ([]string, error) {
	pod := obj.(*corev1.Pod)
	out := make([]string, 0, len(pod.Labels))
	for key, value := range pod.Labels {
		out = append(out, pairKey(pod.Namespace, key, value))
	}
	return out, nil
}

func nodeIndex(obj any) ([]string, error) {
	if node := obj.(*corev1.Pod).Spec.NodeName; node != "" {
		return []string{node}, nil
	}
	return nil, nil
}

// pairKey: neither a namespace nor a label's key or value contains a space.
func pairKey(namespace, key, value string) string { return namespace + " " + key + " " + value }

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

func zoneOf(n *corev1.Node) string { return n.Labels[corev1.LabelTopologyZone] }
