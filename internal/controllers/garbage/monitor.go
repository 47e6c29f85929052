package garbage

import (
	"context"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/controllers/resources"
)

// recheck looks at all objects again, from the cache: an owner whose kind can't be
// watched goes without an event.
const recheck = 10 * time.Minute

type object = metav1.PartialObjectMetadata

// monitor is the watch of one kind.
type monitor struct {
	*objects
	resource resources.Resource
	cancel   context.CancelFunc
	done     chan struct{}
}

func (c *controller) start(ctx context.Context, r resources.Resource) *monitor {
	m := &monitor{resource: r, done: make(chan struct{})}
	m.objects = newObjects(
		func(old, now *known) { c.seen(m, old, now) },
		func(k *known) { c.gone(m, k) },
		func() { c.full(m) },
	)
	client := c.Metadata.Resource(r.GroupVersionResource)
	reads := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, options)
		},
	}, c.Metadata)
	reflector := cache.NewReflectorWithOptions(reads, &object{}, m.objects, cache.ReflectorOptions{
		Name: "garbage", TypeDescription: r.GroupResource().String(), ResyncPeriod: recheck,
	})
	ctx, m.cancel = context.WithCancel(ctx)
	go func() {
		defer close(m.done)
		reflector.RunWithContext(ctx)
	}()
	return m
}

func (m *monitor) stop() {
	m.cancel()
	<-m.done
}

func (m *monitor) item(k *known) item {
	return item{resource: m.resource.GroupVersionResource, namespace: k.namespace, name: k.name.name, uid: k.uid}
}

// seen looks at a new or changed object, and queues it if there may be something
// to do about it.
func (c *controller) seen(m *monitor, old, now *known) {
	c.definitionChanged(m)
	if now.suspicious() || (!now.ending && !c.ownersSeen(now)) {
		c.queue.Add(m.item(now))
	}
	if old != nil && !slices.EqualFunc(old.owners, now.owners, sameBlock) {
		c.wakeOwners(old) // it may block an owner's deletion no more
	}
}

// gone looks for work that an object's disappearance leaves.
func (c *controller) gone(m *monitor, k *known) {
	c.definitionChanged(m)
	for _, d := range c.dependents(k.uid) {
		c.queue.Add(d.monitor.item(d.known))
	}
	c.wakeOwners(k)
}

// full looks again at the objects whose owners of this kind aren't among those that there
// are: whatever was judged, or settled by an earlier watch of the kind, before this one had
// its list. Nobody tells of an owner that went until then.
//
// No object slips through: one that is judged later finds the filled cache, and is told of
// all that goes; one that is being judged now is judged once more.
func (c *controller) full(m *monitor) {
	if !c.judging.Load() {
		return // all that is suspicious is still in the queue
	}
	for _, of := range c.all() {
		for _, k := range of.objects.all() {
			if !k.ending && c.names(k, m) && !c.ownersSeen(k) {
				c.queue.Add(of.item(k))
			}
		}
	}
}

// names says whether the object has an owner of the monitor's kind.
func (c *controller) names(k *known, m *monitor) bool {
	return slices.ContainsFunc(k.owners, func(o owner) bool {
		_, of, ok := c.resourceOf(o.groupKind())
		return ok && of == m
	})
}

func sameBlock(a, b owner) bool { return a.uid == b.uid && a.blocks == b.blocks }

// ownersSeen says whether all owners are in the caches and stay: then there is
// nothing to do, which is the case for nearly all objects.
//
// No deletion slips through: a cache is changed before its events are told. If
// an owner is still in its cache here, its deletion is told later, and by then
// this object is in its own cache and found as a dependent.
func (c *controller) ownersSeen(k *known) bool {
	for _, o := range k.owners {
		if _, owner := c.cachedOwner(k.namespace, o); owner == nil || owner.waiting {
			return false
		}
	}
	return true
}

// cachedOwner is the owner as its kind's cache has it, or nil.
func (c *controller) cachedOwner(namespace string, o owner) (*monitor, *known) {
	r, m, ok := c.resourceOf(o.groupKind())
	if !ok || m == nil {
		return nil, nil
	}
	if !r.Namespaced {
		namespace = ""
	}
	if k := m.get(name{namespace, o.name}); k != nil && k.uid == o.uid {
		return m, k
	}
	return nil, nil
}

// waiting: the object's deletion waits for that of its dependents.
func waiting(o *object) bool {
	return o.DeletionTimestamp != nil && slices.Contains(o.Finalizers, metav1.FinalizerDeleteDependents)
}

// wakeOwners queues the owners whose deletion may have waited for this object.
func (c *controller) wakeOwners(k *known) {
	for _, o := range k.owners {
		if m, owner := c.cachedOwner(k.namespace, o); owner != nil && owner.waiting {
			c.queue.Add(m.item(owner))
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
	known   *known
	blocks  bool // its reference has blockOwnerDeletion
}

// dependents finds, in the caches, the objects that an object owns.
func (c *controller) dependents(uid types.UID) []dependent {
	var out []dependent
	for _, m := range c.all() {
		for _, k := range m.objects.dependents(uid) {
			out = append(out, dependent{m, k, slices.ContainsFunc(k.owners, func(o owner) bool { return o.uid == uid && o.blocks })})
		}
	}
	return out
}
