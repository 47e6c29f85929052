package etcd

import (
	"context"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
)

// held are the watch caches of the kinds that are Go types.
type held struct {
	mu     sync.RWMutex
	caches map[reflect.Type]heldKind // guarded by mu
}

type heldKind struct {
	cache *cacher.Cacher
	key   func(runtime.Object) (string, error)
	empty func() runtime.Object
}

func (h *held) add(cache *cacher.Cacher, key func(runtime.Object) (string, error), empty func() runtime.Object) {
	if _, ok := empty().(runtime.Unstructured); ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.caches == nil {
		h.caches = map[reflect.Type]heldKind{}
	}
	h.caches[reflect.TypeOf(empty())] = heldKind{cache, key, empty}
}

// Held is the object of that version as its watch cache holds it, but for the managed
// fields, which are left away; nil where the cache has another version or none. The
// object's parts are those in the cache: nobody may change them.
func (o *Options) Held(obj runtime.Object) runtime.Object {
	o.held.mu.RLock()
	kind, ok := o.held.caches[reflect.TypeOf(obj)]
	o.held.mu.RUnlock()
	if !ok || !kind.cache.Ready() {
		return nil
	}
	wanted, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	key, err := kind.key(obj)
	if err != nil {
		return nil
	}
	// The cache copies its object's outermost struct and nothing below it.
	out := kind.empty()
	if err := kind.cache.Get(context.Background(), key, storage.GetOptions{ResourceVersion: "0"}, out); err != nil {
		return nil // deleted meanwhile
	}
	found, err := meta.Accessor(out)
	if err != nil || found.GetUID() != wanted.GetUID() || found.GetResourceVersion() != wanted.GetResourceVersion() {
		return nil
	}
	found.SetManagedFields(nil)
	return out
}
