package metallb

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	core "portico.dev/portico/internal/core/metallb"
)

// retry is the pause before a kind is listed again: one that isn't served or couldn't be
// read, or whose watch has ended, which a server in trouble does at once each time.
const retry = time.Second

// Follow calls changed with the whole configuration once all six kinds were listed, and
// again whenever an object has changed, until ctx ends. A kind that isn't served counts as
// empty. Calls don't overlap; changes during a call are seen together in the next. The
// values belong to whoever was called; Follow never changes them afterwards.
func Follow(ctx context.Context, client dynamic.Interface, log *slog.Logger, changed func(*core.Config)) error {
	f := &follower{log: log, wake: make(chan struct{}, 1)}
	kinds := f.kinds(client)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, k := range kinds {
		wg.Go(func() { k.run(ctx) })
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		if config := f.config(kinds); config != nil {
			changed(config)
		}
	}
}

// follower is what the six kinds share.
type follower struct {
	log  *slog.Logger
	wake chan struct{}
	mu   sync.Mutex // guards the kinds' objects
}

func (f *follower) kinds(client dynamic.Interface) []kind {
	return []kind{
		follow(f, client, Pools, func(c *core.Config, l []*core.IPAddressPool) { c.Pools = l }),
		follow(f, client, L2Advertisements, func(c *core.Config, l []*core.L2Advertisement) { c.L2Advertisements = l }),
		follow(f, client, BGPAdvertisements, func(c *core.Config, l []*core.BGPAdvertisement) { c.BGPAdvertisements = l }),
		follow(f, client, BGPPeers, func(c *core.Config, l []*core.BGPPeer) { c.BGPPeers = l }),
		follow(f, client, BFDProfiles, func(c *core.Config, l []*core.BFDProfile) { c.BFDProfiles = l }),
		follow(f, client, Communities, func(c *core.Config, l []*core.Community) { c.Communities = l }),
	}
}

// kind is one of them, whatever its type.
type kind interface {
	run(ctx context.Context)
	// list reads all of its objects.
	list(ctx context.Context) error
	// put adds its objects to the config; false: it wasn't listed yet.
	put(*core.Config) bool
}

func (f *follower) config(kinds []kind) *core.Config {
	f.mu.Lock()
	defer f.mu.Unlock()
	config := &core.Config{}
	for _, k := range kinds {
		if !k.put(config) {
			return nil
		}
	}
	return config
}

func (f *follower) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// objects are those of one kind.
type objects[T any] struct {
	*follower
	client   dynamic.ResourceInterface
	resource schema.GroupVersionResource
	set      func(*core.Config, []*T)
	seen     string // resourceVersion of the last list

	// guarded by follower.mu
	listed  bool
	byName  map[string]*T
	version map[string]string // resourceVersion by name
}

func follow[T any](f *follower, client dynamic.Interface, resource schema.GroupVersionResource, set func(*core.Config, []*T)) kind {
	return &objects[T]{
		follower: f, client: client.Resource(resource).Namespace(core.Namespace), resource: resource, set: set,
		byName: map[string]*T{}, version: map[string]string{},
	}
}

func (o *objects[T]) put(config *core.Config) bool {
	list := make([]*T, 0, len(o.byName))
	for _, name := range slices.Sorted(maps.Keys(o.byName)) {
		list = append(list, o.byName[name])
	}
	o.set(config, list)
	return o.listed
}

// run lists, then watches until the watch ends, and begins anew: the objects are few.
func (o *objects[T]) run(ctx context.Context) {
	ticker := time.NewTicker(retry)
	defer ticker.Stop()
	for {
		if err := o.listAndWatch(ctx); err != nil && ctx.Err() == nil {
			o.log.Debug("The load balancers' configuration can't be read; trying again", "resource", o.resource.Resource, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (o *objects[T]) list(ctx context.Context) error {
	list, err := o.client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list %s: %w", o.resource.Resource, err)
	}
	o.seen = list.GetResourceVersion()
	o.replace(list.Items)
	return nil
}

func (o *objects[T]) listAndWatch(ctx context.Context) error {
	err := o.list(ctx)
	if apierrors.IsNotFound(err) {
		o.missing()
	}
	if err != nil {
		return err
	}
	events, err := o.client.Watch(ctx, metav1.ListOptions{ResourceVersion: o.seen})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("watch: %w", apierrors.FromObject(event.Object))
		}
		if o.apply(object, event.Type == watch.Deleted) {
			o.poke()
		}
	}
	return nil
}

// missing notes that the kind isn't served: it has no objects. One that was served is
// thought to come back, as after a server's restart: its objects stay.
func (o *objects[T]) missing() {
	o.mu.Lock()
	first := !o.listed
	o.mu.Unlock()
	if first {
		o.replace(nil)
	}
}

// replace takes a whole list, and wakes the caller where it says anything new. Nobody sees
// a part of it: what isn't in the configuration is taken from Services.
func (o *objects[T]) replace(items []unstructured.Unstructured) {
	o.mu.Lock()
	defer o.mu.Unlock()
	gone := maps.Clone(o.version)
	news := !o.listed
	o.listed = true
	for i := range items {
		delete(gone, items[i].GetName())
		news = o.keep(&items[i]) || news
	}
	for name := range gone {
		o.forget(name)
		news = true
	}
	if news {
		o.poke()
	}
}

// apply takes one object and tells whether it is news.
func (o *objects[T]) apply(object *unstructured.Unstructured, gone bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if gone {
		o.forget(object.GetName())
		return true
	}
	return o.keep(object)
}

// forget drops an object that is gone. mu is held.
func (o *objects[T]) forget(name string) {
	delete(o.byName, name)
	delete(o.version, name)
}

// keep keeps an object that there is. mu is held.
func (o *objects[T]) keep(object *unstructured.Unstructured) bool {
	name := object.GetName()
	if o.version[name] == object.GetResourceVersion() {
		return false
	}
	object.SetManagedFields(nil)
	value := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, value); err != nil {
		// Only where a foreign definition lets pass what the types don't hold.
		o.log.Warn("An object can't be read and is ignored", "resource", o.resource.Resource, "name", name, "err", err)
		delete(o.byName, name)
		value = nil
	}
	if value != nil {
		o.byName[name] = value
	}
	o.version[name] = cmp.Or(object.GetResourceVersion(), "unknown")
	return true
}

// Get reads the whole configuration once. A kind that isn't served is an error.
func Get(ctx context.Context, client dynamic.Interface) (*core.Config, error) {
	f := &follower{log: slog.New(slog.DiscardHandler), wake: make(chan struct{}, 1)}
	kinds := f.kinds(client)
	for _, k := range kinds {
		if err := k.list(ctx); err != nil {
			return nil, err
		}
	}
	return f.config(kinds), nil
}
