package problems

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/core/catalog"
)

// watch registers for events.
func (c *controller) watch(view *caches.View) {
	services := view.Core().V1().Services().Informer()
	c.services = services.GetIndexer()
	view.On(services, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.claim(obj.(*corev1.Service)) },
		UpdateFunc: func(_, obj any) { c.claim(obj.(*corev1.Service)) },
		DeleteFunc: func(obj any) {
			if svc, ok := last(obj).(*corev1.Service); ok {
				c.put(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, nil)
			}
		},
	})
	slices := view.Discovery().V1().EndpointSlices().Informer()
	view.Index(slices, caches.SlicesByService())
	c.slices = slices.GetIndexer()
	view.On(slices, cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.sliceChanged(nil, obj.(*discoveryv1.EndpointSlice)) },
		UpdateFunc: func(old, obj any) {
			c.sliceChanged(old.(*discoveryv1.EndpointSlice), obj.(*discoveryv1.EndpointSlice))
		},
		DeleteFunc: func(obj any) {
			if s, ok := last(obj).(*discoveryv1.EndpointSlice); ok {
				c.sliceChanged(s, nil)
			}
		},
	})
}

// last is the object that is gone, as it was known last.
func last(obj any) any {
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return t.Obj
	}
	return obj
}

// claim notes what a Service claims.
func (c *controller) claim(svc *corev1.Service) {
	c.put(types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}, catalog.FromService(svc))
}

// put replaces a Service's claims (nil: it is gone), and queues it and those that share
// a claim with it, before or after.
func (c *controller) put(name types.NamespacedName, svc *catalog.Service) {
	c.mu.Lock()
	rivals := c.claims.Rivals(c.claims.Claims(name))
	now := c.computer.Compute(&catalog.Node{}, svc, nil)
	c.claims.Put(name, now)
	rivals = append(rivals, c.claims.Rivals(now)...)
	c.mu.Unlock()
	c.queue.Add(name)
	for _, rival := range rivals {
		c.queue.Add(rival)
	}
}

// sliceChanged queues the Services that a slice was and is of (nil: it wasn't, or isn't
// any more). One that no Service has is told so itself, when it comes or loses its label.
func (c *controller) sliceChanged(old, now *discoveryv1.EndpointSlice) {
	had := false
	if old != nil {
		service := caches.ServiceOf(old)
		if had = service.Name != ""; had {
			c.queue.Add(service)
		}
	}
	if now == nil {
		return
	}
	service := caches.ServiceOf(now)
	switch {
	case service.Name != "":
		c.queue.Add(service)
	case (old == nil || had) && c.Recorder != nil:
		c.Recorder.Event(now, corev1.EventTypeWarning, "NoService",
			"metadata.labels: "+discoveryv1.LabelServiceName+" is missing, so no Service uses these endpoints: add it with the Service's name")
	}
}
