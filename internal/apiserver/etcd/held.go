package etcd

import (
	"context"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
)

// held are the watch caches of the kinds that are Go types.
type held struct {
	mu     sync.RWMutex
	caches map[reflect.Type]heldKind // guarded by mu
}

type heldKind struct {
	cache  *cacher.Cacher
	key    func(runtime.Object) (string, error)
	empty  func() runtime.Object
	recent *recent
}

func (h *held) add(cache *cacher.Cacher, key func(runtime.Object) (string, error), empty func() runtime.Object, recent *recent) {
	if _, ok := empty().(runtime.Unstructured); ok {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.caches == nil {
		h.caches = map[reflect.Type]heldKind{}
	}
	h.caches[reflect.TypeOf(empty())] = heldKind{cache, key, empty, recent}
}

// recentKept is how many objects of a kind are remembered until somebody asks for them,
// and as many before them: an informer has an event some milliseconds after the watch cache.
const recentKept = 512

// version is one state of an object.
type version struct {
	uid      types.UID
	resource string
}

// recent are the objects of a kind that its watch cache took last: the cache itself gives
// out copies only.
type recent struct {
	mu         sync.Mutex
	young, old map[version]runtime.Object // guarded by mu
}

// noting remembers each object of which a watch cache wants to know the attributes, which
// it does just before it takes it.
func (r *recent) noting(attrs storage.AttrFunc) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		if m, err := meta.Accessor(obj); err == nil {
			r.note(version{m.GetUID(), m.GetResourceVersion()}, obj)
		}
		return attrs(obj)
	}
}

func (r *recent) note(v version, obj runtime.Object) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.young) >= recentKept || r.young == nil {
		r.old, r.young = r.young, map[version]runtime.Object{}
	}
	r.young[v] = obj
}

// take returns the object and forgets it.
func (r *recent) take(v version) runtime.Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, objects := range []map[version]runtime.Object{r.young, r.old} {
		if obj, ok := objects[v]; ok {
			delete(objects, v)
			return obj
		}
	}
	return nil
}

// Held is the object of that version as its watch cache holds it; nil where the cache has
// another version or none. It is the cache's own, in whole or in its parts: nobody may
// change it.
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
	if own := kind.recent.take(version{wanted.GetUID(), wanted.GetResourceVersion()}); own != nil {
		return own
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
	return out
}
