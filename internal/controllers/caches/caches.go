// Package caches gives controllers the objects they watch: one cache per kind for
// all controllers of a term, and per controller its handlers on them, which end
// with it.
//
//	API server -> watch -> Shared (one cache per kind) -> View (handlers) -> controller
//	                         ^ Held: the memory of the API server's own cache, where it
//	                           runs in this process
//
// In: a client and the handlers. Out: cached objects, which nobody may change. It
// decides nothing and writes nothing.
package caches

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Shared are the caches of one term. A kind's cache is made when the first
// controller asks for it and is kept until the term ends, also when that
// controller fails and begins anew.
type Shared struct {
	ctx     context.Context // the term's
	factory informers.SharedInformerFactory
}

// Held finds an object that the client has read in memory that this process uses for it
// anyway; nil where there is none of the same version. It may have managed fields.
type Held func(runtime.Object) runtime.Object

// Share makes caches that live until ctx ends. Close waits for them. held may be nil.
func Share(ctx context.Context, client kubernetes.Interface, held Held) *Shared {
	transform := func(obj any) (any, error) {
		if object, ok := obj.(runtime.Object); ok && held != nil {
			if same := held(object); same != nil {
				return same, nil
			}
		}
		return slim(obj)
	}
	return &Shared{ctx: ctx, factory: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(transform))}
}

// Close waits for the watches to end; the context of Share must have ended.
func (s *Shared) Close() { s.factory.Shutdown() }

// slim drops what no controller reads: managed fields are up to half of an object.
// A write without them leaves the server's as they are.
func slim(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil {
		o.SetManagedFields(nil)
	}
	return obj, nil
}

// View is what one run of a controller sees. It isn't safe for concurrent use.
type View struct {
	informers.SharedInformerFactory
	shared *Shared
	close  []func() // the last first
	synced []cache.InformerSynced
	errs   []error

	ctx     context.Context // ends with Close
	running sync.WaitGroup  // informers outside Shared
}

// Open begins a run's view of the shared caches or, where shared is nil, of its
// own, which then end with ctx or Close.
func Open(ctx context.Context, client kubernetes.Interface, shared *Shared) *View {
	ctx, cancel := context.WithCancel(ctx)
	v := &View{ctx: ctx, shared: shared}
	if shared == nil {
		v.shared = Share(ctx, client, nil)
		v.close = append(v.close, v.shared.Close)
	}
	v.SharedInformerFactory = v.shared.factory
	v.close = append(v.close, v.running.Wait, cancel)
	return v
}

// Close takes the handlers away and waits for what ran for this view alone.
func (v *View) Close() {
	for i := len(v.close) - 1; i >= 0; i-- {
		v.close[i]()
	}
}

// On has the handler called for every object of the informer and its changes,
// until Close.
func (v *View) On(informer cache.SharedIndexInformer, handler cache.ResourceEventHandler) {
	registration, err := informer.AddEventHandler(handler)
	if err != nil {
		v.errs = append(v.errs, fmt.Errorf("watch: %w", err))
		return
	}
	v.close = append(v.close, func() { _ = informer.RemoveEventHandler(registration) }) // it fails when it is gone already
	v.synced = append(v.synced, registration.HasSynced)
}

// OnAny has seen called with each object that comes, changes or goes; one that
// goes may come as a cache.DeletedFinalStateUnknown.
func (v *View) OnAny(informer cache.SharedIndexInformer, seen func(obj any)) {
	v.On(informer, cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, obj any) { seen(obj) }, DeleteFunc: seen,
	})
}

// Index adds indexes to an informer's cache. Those it has already, from an
// earlier run of the controller, stay.
func (v *View) Index(informer cache.SharedIndexInformer, indexers cache.Indexers) {
	missing := cache.Indexers{}
	has := informer.GetIndexer().GetIndexers()
	for name, f := range indexers {
		if _, ok := has[name]; !ok {
			missing[name] = f
		}
	}
	if err := informer.AddIndexers(missing); err != nil {
		v.errs = append(v.errs, fmt.Errorf("index: %w", err))
	}
}

// Own runs an informer that is no part of the shared caches until Close.
func (v *View) Own(informer cache.SharedIndexInformer) {
	v.running.Go(func() { informer.RunWithContext(v.ctx) })
}

// Ready starts the caches that were asked for and waits until every handler has
// seen what is there. ok is false when it failed or the view's context ended first,
// which is no error.
func (v *View) Ready() (ok bool, err error) {
	if err := errors.Join(v.errs...); err != nil {
		return false, err
	}
	v.StartWithContext(v.shared.ctx)
	return cache.WaitForCacheSync(v.ctx.Done(), v.synced...), nil
}
