package garbage

import (
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// known is what is kept of an object, as this is kept of all objects of the cluster. It
// never changes.
type known struct {
	name
	uid      types.UID
	owners   []owner
	ending   bool // it is being deleted, and waits for
	waiting  bool //   its dependents to be deleted (foregroundDeletion)
	orphaner bool //   its dependents to be let go (orphan)
}

// name is an object's among those of its kind.
type name struct{ namespace, name string }

// owner is one of the object's owner references.
type owner struct {
	uid    types.UID
	name   string
	kind   unique.Handle[kind]
	blocks bool
}

type kind struct{ apiVersion, kind string }

func (o owner) groupKind() schema.GroupVersionKind {
	k := o.kind.Value()
	return schema.FromAPIVersionAndKind(k.apiVersion, k.kind)
}

func knownOf(o *object) *known {
	k := &known{
		name: name{unique.Make(o.Namespace).Value(), o.Name}, uid: o.UID,
		ending: o.DeletionTimestamp != nil, waiting: waiting(o),
		orphaner: o.DeletionTimestamp != nil && slices.Contains(o.Finalizers, metav1.FinalizerOrphanDependents),
	}
	if len(o.OwnerReferences) > 0 {
		k.owners = make([]owner, len(o.OwnerReferences))
	}
	for i := range o.OwnerReferences {
		k.owners[i] = ownerOf(&o.OwnerReferences[i])
	}
	return k
}

func ownerOf(ref *metav1.OwnerReference) owner {
	blocks := ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
	return owner{ref.UID, ref.Name, unique.Make(kind{ref.APIVersion, ref.Kind}), blocks}
}

// suspicious: its deletion waits for us.
func (k *known) suspicious() bool { return k.waiting || k.orphaner }

// objects are those of one kind. They are told to seen and gone after they have changed
// here, never two at once but for rechecks.
type objects struct {
	seen   func(old, now *known)
	gone   func(*known)
	full   func()        // told once, after filled
	filled chan struct{} // closed when all that there were have been seen
	seed   maphash.Seed

	mu      sync.RWMutex
	byName  map[name]*known     // guarded by mu
	byOwner map[uint16][]*known // guarded by mu; by a part of the owner's hash: a list for each would cost as much as the objects
}

func newObjects(seen func(old, now *known), gone func(*known), full func()) *objects {
	return &objects{
		seen: seen, gone: gone, full: full, filled: make(chan struct{}), seed: maphash.MakeSeed(),
		byName: map[name]*known{}, byOwner: map[uint16][]*known{},
	}
}

// get is nil where there is no such object.
func (s *objects) get(n name) *known {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.byName[n]
}

// dependents are the objects that name the owner.
func (s *objects) dependents(uid types.UID) []*known {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []*known
	for _, k := range s.byOwner[s.bucket(uid)] {
		if slices.ContainsFunc(k.owners, func(o owner) bool { return o.uid == uid }) && !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

func (s *objects) bucket(uid types.UID) uint16 {
	const buckets = 1024 // ten objects in each, of 10,000
	return uint16(maphash.String(s.seed, string(uid)) % buckets)
}

func (s *objects) all() []*known {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make([]*known, 0, len(s.byName))
	for _, k := range s.byName {
		out = append(out, k)
	}
	return out
}

// put replaces the object of that name (now nil: it is gone) and returns what it was.
func (s *objects) put(n name, now *known) (old *known) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old = s.byName[n]; old != nil {
		for _, o := range old.owners {
			s.forget(s.bucket(o.uid), old)
		}
		delete(s.byName, n) // its key belongs to the old object
	}
	if now != nil {
		s.byName[now.name] = now
		for _, o := range now.owners {
			b := s.bucket(o.uid)
			s.byOwner[b] = append(s.byOwner[b], now)
		}
	}
	return old
}

// forget takes one mention of the object out of a bucket.
func (s *objects) forget(bucket uint16, k *known) {
	list := s.byOwner[bucket]
	i := slices.Index(list, k)
	last := len(list) - 1
	list[i], list[last] = list[last], nil
	if last == 0 {
		delete(s.byOwner, bucket)
		return
	}
	s.byOwner[bucket] = list[:last]
}

// Add implements cache.ReflectorStore.
func (s *objects) Add(obj any) error {
	o, ok := obj.(*object)
	if !ok {
		return fmt.Errorf("%T is no metadata", obj)
	}
	now := knownOf(o)
	s.tell(s.put(now.name, now), now)
	return nil
}

// tell of an object that came or changed. One of another UID is another object, though it
// has the same name and nobody saw the first one go.
func (s *objects) tell(old, now *known) {
	if old != nil && old.uid != now.uid {
		s.gone(old)
		old = nil
	}
	s.seen(old, now)
}

// Update implements cache.ReflectorStore.
func (s *objects) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *objects) Delete(obj any) error {
	o, ok := obj.(*object)
	if !ok {
		return fmt.Errorf("%T is no metadata", obj)
	}
	if old := s.put(name{o.Namespace, o.Name}, nil); old != nil {
		s.gone(old)
	}
	return nil
}

// Replace implements cache.ReflectorStore.
func (s *objects) Replace(list []any, _ string) error {
	missing := map[name]bool{}
	for _, k := range s.all() {
		missing[k.name] = true
	}
	for _, obj := range list {
		if o, ok := obj.(*object); ok {
			delete(missing, name{o.Namespace, o.Name})
		}
		if err := s.Add(obj); err != nil {
			return err
		}
	}
	for n := range missing {
		if old := s.put(n, nil); old != nil {
			s.gone(old)
		}
	}
	select {
	case <-s.filled:
	default:
		close(s.filled)
		s.full()
	}
	return nil
}

// Resync implements cache.ReflectorStore: it looks at all objects again.
func (s *objects) Resync() error {
	for _, k := range s.all() {
		s.seen(k, k)
	}
	return nil
}

func (s *objects) synced() bool {
	select {
	case <-s.filled:
		return true
	default:
		return false
	}
}
