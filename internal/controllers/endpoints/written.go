package endpoints

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/utils/clock"
)

// memory is how long a write is remembered at most. The watch tells of it within
// milliseconds; after so long it never will (the object was deleted between two
// lists, say), and believing the cache is right again.
const memory = 10 * time.Second

// written remembers our writes until the informer's cache has them. Without it a
// sync that follows a write would decide by what was before it, and would have
// to wait; with it, it goes on at once.
type written[T metav1.Object] struct {
	clock clock.PassiveClock

	mu     sync.Mutex
	writes map[types.NamespacedName]map[string]write[T] // by Service, then name; guarded by mu
	// ahead has, of Services that are being written, the newest event of each object: the
	// watch may tell of a write, and of what came after it, before the write returns.
	ahead map[types.NamespacedName]map[string]event[T] // by Service, then name; guarded by mu
}

type event[T metav1.Object] struct {
	object  T
	deleted bool
}

type write[T metav1.Object] struct {
	object  T // as the server returned it; for a deletion, as it was before
	deleted bool
	at      time.Time
}

func newWritten[T metav1.Object](clk clock.PassiveClock) *written[T] {
	return &written[T]{
		clock: clk, writes: map[types.NamespacedName]map[string]write[T]{}, ahead: map[types.NamespacedName]map[string]event[T]{},
	}
}

// begin is called before writes of a Service; end after the last of them was put. One
// worker at a time writes for a Service.
func (w *written[T]) begin(service types.NamespacedName) (end func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead[service] = map[string]event[T]{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.ahead, service)
	}
}

// put remembers that an object was created or updated.
func (w *written[T]) put(service types.NamespacedName, object T) {
	w.remember(service, write[T]{object: object, at: w.clock.Now()})
}

// gone remembers that an object was deleted.
func (w *written[T]) gone(service types.NamespacedName, object T) {
	w.remember(service, write[T]{object: object, deleted: true, at: w.clock.Now()})
}

func (w *written[T]) remember(service types.NamespacedName, entry write[T]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last, told := w.ahead[service][entry.object.GetName()]
	if told && last.object.GetUID() == entry.object.GetUID() && (last.deleted || !entry.deleted && !older(last.object, entry.object)) {
		w.drop(service, entry.object.GetName()) // the cache is as new
		return
	}
	if w.writes[service] == nil {
		w.writes[service] = map[string]write[T]{}
	}
	w.writes[service][entry.object.GetName()] = entry
}

// forget is called when the server contradicts what is remembered.
func (w *written[T]) forget(service types.NamespacedName, name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(service, name)
}

// drop needs mu.
func (w *written[T]) drop(service types.NamespacedName, name string) {
	delete(w.writes[service], name)
	if len(w.writes[service]) == 0 {
		delete(w.writes, service)
	}
}

// seen is told of each event, and says whether it is news: it isn't when it is
// the echo of our own write.
func (w *written[T]) seen(service types.NamespacedName, object T, deleted bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ahead := w.ahead[service]; ahead != nil {
		ahead[object.GetName()] = event[T]{object, deleted}
	}
	entry, ok := w.writes[service][object.GetName()]
	switch {
	case !ok:
		return true
	case deleted:
		// Of a predecessor of the same name says nothing about ours.
		if entry.object.GetUID() == object.GetUID() {
			w.drop(service, object.GetName())
		}
		return !entry.deleted
	case entry.deleted || object.GetUID() != entry.object.GetUID():
		return object.GetUID() != entry.object.GetUID()
	case older(object, entry.object):
		return false
	default:
		w.drop(service, object.GetName())
		return object.GetResourceVersion() != entry.object.GetResourceVersion()
	}
}

// newest brings a Service's objects from the cache up to our own writes.
func (w *written[T]) newest(service types.NamespacedName, cached []T) []T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.writes[service]) == 0 {
		return cached
	}
	out := make([]T, 0, len(cached)+1)
	have := map[string]bool{}
	for _, object := range cached {
		name := object.GetName()
		have[name] = true
		entry, ok := w.writes[service][name]
		switch {
		case !ok || w.expired(entry):
			out = append(out, object)
		case entry.deleted && entry.object.GetUID() == object.GetUID():
			// on its way out
		case entry.deleted:
			out = append(out, object) // a new one has taken the name
		case entry.object.GetUID() != object.GetUID() || older(object, entry.object):
			out = append(out, entry.object)
		default:
			out = append(out, object)
		}
	}
	for name, entry := range w.writes[service] {
		switch {
		case w.expired(entry):
			w.drop(service, name)
		case !have[name] && !entry.deleted:
			out = append(out, entry.object)
		}
	}
	return out
}

// pending says whether some write of the Service hasn't come back yet.
func (w *written[T]) pending(service types.NamespacedName) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.writes[service]) > 0
}

func (w *written[T]) expired(entry write[T]) bool {
	return w.clock.Since(entry.at) >= memory
}

// older says whether a is an earlier version of an object than b. Resource
// versions of one resource can be compared (KEP-5504).
func older(a, b metav1.Object) bool {
	c, err := resourceversion.CompareResourceVersion(a.GetResourceVersion(), b.GetResourceVersion())
	return err == nil && c < 0
}
