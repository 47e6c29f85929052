package garbage

import (
	"context"
	"fmt"
	"slices"
	"time"
	"unique"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/controllers/resources"
)

const (
	byOwner = "owner"
	// recheck looks at all objects again, from the cache: an owner whose kind
	// can't be watched goes without an event.
	recheck = 10 * time.Minute
)

type object = metav1.PartialObjectMetadata

// monitor is the watch of one kind.
type monitor struct {
	resource     resources.Resource
	informer     cache.SharedIndexInformer
	registration cache.ResourceEventHandlerRegistration
	cancel       context.CancelFunc
	done         chan struct{}
}

func (c *controller) start(ctx context.Context, r resources.Resource) (*monitor, error) {
	m := &monitor{
		resource: r,
		informer: metadatainformer.NewFilteredMetadataInformer(c.Metadata, r.GroupVersionResource, metav1.NamespaceAll,
			recheck, cache.Indexers{byOwner: ownerIndex}, nil).Informer(),
		done: make(chan struct{}),
	}
	if err := m.informer.SetTransform(strip); err != nil {
		return nil, fmt.Errorf("watch %s: %w", r.GroupResource(), err)
	}
	var err error
	m.registration, err = m.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.seen(m, nil, obj.(*object)) },
		UpdateFunc: func(old, obj any) { c.seen(m, old.(*object), obj.(*object)) },
		DeleteFunc: func(obj any) {
			if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = t.Obj
			}
			if o, ok := obj.(*object); ok {
				c.gone(m, o)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", r.GroupResource(), err)
	}
	ctx, m.cancel = context.WithCancel(ctx)
	go func() {
		defer close(m.done)
		m.informer.RunWithContext(ctx)
	}()
	return m, nil
}

func (m *monitor) stop() {
	m.cancel()
	<-m.done
}

func (m *monitor) item(o *object) item {
	return item{resource: m.resource.GroupVersionResource, namespace: o.Namespace, name: o.Name, uid: o.UID}
}

// get reads the cache; nil: it has no such object.
func (m *monitor) get(namespace, name string) *object {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	obj, exists, err := m.informer.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return nil
	}
	return obj.(*object)
}

// seen looks at a new or changed object, and queues it if there may be something
// to do about it.
func (c *controller) seen(m *monitor, old, o *object) {
	c.definitionChanged(m)
	if suspicious(o) || (o.DeletionTimestamp == nil && !c.ownersSeen(o)) {
		c.queue.Add(m.item(o))
	}
	if old != nil && !slices.EqualFunc(old.OwnerReferences, o.OwnerReferences, sameBlock) {
		c.wakeOwners(old) // it may block an owner's deletion no more
	}
}

// gone looks for work that an object's disappearance leaves.
func (c *controller) gone(m *monitor, o *object) {
	c.definitionChanged(m)
	for _, d := range c.dependents(o.UID) {
		c.queue.Add(d.monitor.item(d.object))
	}
	c.wakeOwners(o)
}

// suspicious: its deletion waits for us.
func suspicious(o *object) bool {
	return o.DeletionTimestamp != nil &&
		(slices.Contains(o.Finalizers, metav1.FinalizerDeleteDependents) || slices.Contains(o.Finalizers, metav1.FinalizerOrphanDependents))
}

func sameBlock(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && blocks(a) == blocks(b)
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// ownersSeen says whether all owners are in the caches and stay: then there is
// nothing to do, which is the case for nearly all objects.
//
// No deletion slips through: a cache is changed before its events are told. If
// an owner is still in its cache here, its deletion is told later, and by then
// this object is in its own cache and found as a dependent.
func (c *controller) ownersSeen(o *object) bool {
	for _, ref := range o.OwnerReferences {
		if owner := c.cachedOwner(o.Namespace, ref); owner == nil || waiting(owner) {
			return false
		}
	}
	return true
}

// cachedOwner is the owner as its kind's cache has it, or nil.
func (c *controller) cachedOwner(namespace string, ref metav1.OwnerReference) *object {
	r, m, ok := c.resourceOf(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
	if !ok || m == nil {
		return nil
	}
	if !r.Namespaced {
		namespace = ""
	}
	if o := m.get(namespace, ref.Name); o != nil && o.UID == ref.UID {
		return o
	}
	return nil
}

// waiting: the object's deletion waits for that of its dependents.
func waiting(o *object) bool {
	return o.DeletionTimestamp != nil && slices.Contains(o.Finalizers, metav1.FinalizerDeleteDependents)
}

// wakeOwners queues the owners whose deletion may have waited for this object.
func (c *controller) wakeOwners(o *object) {
	for _, ref := range o.OwnerReferences {
		if owner := c.cachedOwner(o.Namespace, ref); owner != nil && waiting(owner) {
			if _, m, ok := c.resourceOf(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)); ok && m != nil {
				c.queue.Add(m.item(owner))
			}
		}
	}
}

// definitionChanged has the kinds discovered again.
func (c *controller) definitionChanged(m *monitor) {
	if m.resource.Group != "apiextensions.k8s.io" || m.resource.Resource != "customresourcedefinitions" {
		return
	}
	select {
	case c.poke <- struct{}{}:
	default: // it has been told already
	}
}

// dependent is an object that names the owner asked for.
type dependent struct {
	monitor *monitor
	object  *object
	blocks  bool // its reference has blockOwnerDeletion
}

// dependents finds, in the caches, the objects that an object owns.
func (c *controller) dependents(owner types.UID) []dependent {
	var out []dependent
	for _, m := range c.all() {
		objs, err := m.informer.GetIndexer().ByIndex(byOwner, ownerKey(owner))
		if err != nil {
			continue // the index is there from the start: it can't fail
		}
		for _, obj := range objs {
			d := dependent{monitor: m, object: obj.(*object)}
			owned := false
			for _, ref := range d.object.OwnerReferences {
				if ref.UID == owner {
					owned, d.blocks = true, d.blocks || blocks(ref)
				}
			}
			if owned {
				out = append(out, d)
			}
		}
	}
	return out
}

// ownerKey is where the index has the objects of an owner, among those of others: a set
// for each owner would cost as much as the objects. UIDs are random (RFC 9562, version 4),
// so that three digits make 4,096 sets alike.
func ownerKey(uid types.UID) string { return string(uid[:min(len(uid), 3)]) }

func ownerIndex(obj any) ([]string, error) {
	o := obj.(*object)
	out := make([]string, 0, len(o.OwnerReferences))
	for _, ref := range o.OwnerReferences {
		out = append(out, ownerKey(ref.UID))
	}
	return out, nil
}

// strip drops what isn't used: the caches hold every object of the cluster. Names that
// many objects have alike are kept once.
func strip(obj any) (any, error) {
	o, ok := obj.(*object)
	if !ok {
		return obj, nil // a tombstone
	}
	for i := range o.OwnerReferences {
		owner := &o.OwnerReferences[i]
		owner.APIVersion, owner.Kind = unique.Make(owner.APIVersion).Value(), unique.Make(owner.Kind).Value()
	}
	return &object{ObjectMeta: metav1.ObjectMeta{
		Namespace: unique.Make(o.Namespace).Value(), Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion,
		DeletionTimestamp: o.DeletionTimestamp, Finalizers: o.Finalizers, OwnerReferences: o.OwnerReferences,
	}}, nil
}
