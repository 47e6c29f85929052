package etcd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	"k8s.io/client-go/tools/cache"
)

// Prefix is the root of all keys, as upstream's, so that data stays portable.
const Prefix = "/registry"

// Source gives clients of one store.
type Source interface {
	// Client returns a client of its own: its Kubernetes field may be replaced.
	Client() (*kubernetes.Client, error)
}

// Wrap puts a layer between the watch cache and the etcd store of one resource.
// raw makes the store on a client, which the layer may change before.
type Wrap func(client *kubernetes.Client, raw func(*kubernetes.Client) (storage.Interface, error)) (storage.Interface, error)

// Options makes the storage of resources: generic.RESTOptionsGetter.
type Options struct {
	Source Source
	// Codec gives the stored form of a resource.
	Codec func(schema.GroupResource) runtime.Codec
	// Wraps holds the resources whose writes need a layer of their own.
	Wraps map[schema.GroupResource]Wrap
	// Keys are the places of resources whose folder isn't their name (upstream's
	// history: services/specs, services/endpoints, minions).
	Keys map[schema.GroupResource]string
	// Uncached says which resources have no watch cache: those that are rarely there, or
	// that nobody of ours follows. Reads and watches of them go to etcd.
	Uncached func(schema.GroupResource) bool

	parts parts // that the objects of all watch caches share
	held  held
}

// cacheSource is the store that a watch cache is filled from.
type cacheSource struct {
	storage.Interface
	read   storage.Interface // its objects share parts
	window time.Duration     // of the watch cache's history
}

// GetList implements storage.Interface.
func (s cacheSource) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	return s.read.GetList(ctx, key, opts, list)
}

// Watch implements storage.Interface.
func (s cacheSource) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	events, err := s.read.Watch(ctx, key, opts)
	if err != nil {
		return nil, err
	}
	return paceEvents(events, s.window), nil
}

// bookmarking is the storage of a resource without a watch cache. Its watches get bookmarks
// from etcd's notifications of progress where clients want such; a watch cache makes its own.
// Without, who watches a kind that nobody writes begins again at a revision that is
// compacted.
type bookmarking struct{ storage.Interface }

// Watch implements storage.Interface.
func (s bookmarking) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	opts.ProgressNotify = opts.ProgressNotify || opts.Predicate.AllowWatchBookmarks
	return s.Interface.Watch(ctx, key, opts)
}

var _ generic.RESTOptionsGetter = (*Options)(nil)

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o *Options) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	config := storagebackend.NewDefaultConfig(Prefix, o.Codec(resource))
	return generic.RESTOptions{
		StorageConfig:             config.ForResource(resource),
		Decorator:                 o.decorator(resource),
		EnableGarbageCollection:   true,
		DeleteCollectionWorkers:   4,
		ResourcePrefix:            o.Folder(resource),
		CountMetricPollPeriod:     time.Minute,
		StorageObjectCountTracker: config.StorageObjectCountTracker,
	}, nil
}

// Folder is where a resource's objects are, below Prefix.
func (o *Options) Folder(resource schema.GroupResource) string {
	if key, ok := o.Keys[resource]; ok {
		return key
	}
	if resource.Group != "" && !isUpstreamGroup[resource.Group] {
		return resource.Group + "/" + resource.Resource
	}
	return resource.Resource
}

// isUpstreamGroup lists the built-in groups, whose resources lie at the root.
var isUpstreamGroup = map[string]bool{
	"discovery.k8s.io": true, "coordination.k8s.io": true, "networking.k8s.io": true, "events.k8s.io": true,
	"rbac.authorization.k8s.io": true, "admissionregistration.k8s.io": true, "apps": true, "autoscaling": true, "batch": true, "certificates.k8s.io": true,
	"node.k8s.io": true, "policy": true, "resource.k8s.io": true, "scheduling.k8s.io": true, "storage.k8s.io": true,
}

// decorator does what registry.StorageWithCacher does, but on a client of ours: the
// library's factory makes its own and lets nobody change it.
func (o *Options) decorator(resource schema.GroupResource) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, prefix string, keyFunc func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, getAttrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		client, err := o.Source.Client()
		if err != nil {
			return nil, nil, fmt.Errorf("connect the storage of %s: %w", resource, err)
		}
		open := func(c *kubernetes.Client, codec runtime.Codec) (storage.Interface, error) {
			versioner := storage.APIObjectVersioner{}
			return etcd3.New(c, nil, codec, newFunc, newListFunc, config.Prefix, prefix, config.GroupResource,
				identity.NewEncryptCheckTransformer(), config.LeaseManagerConfig, etcd3.NewDefaultDecoder(codec, versioner), versioner)
		}
		raw := func(c *kubernetes.Client) (storage.Interface, error) { return open(c, config.Codec) }
		wrap := o.Wraps[resource]
		if wrap == nil {
			wrap = func(c *kubernetes.Client, raw func(*kubernetes.Client) (storage.Interface, error)) (storage.Interface, error) {
				return raw(c)
			}
		}
		store, err := wrap(client, raw)
		if err != nil {
			return nil, nil, fmt.Errorf("make the storage of %s: %w", resource, err)
		}
		if o.Uncached != nil && o.Uncached(resource) {
			return bookmarking{store}, func() {}, nil
		}
		source, err := open(client, sharingCodec{config.Codec, &o.parts})
		if err != nil {
			return nil, nil, fmt.Errorf("make the watch cache of %s: %w", resource, err)
		}
		recent := &recent{}
		cached, err := cacher.NewCacherFromConfig(cacher.Config{
			Storage: cacheSource{store, source, config.EventsHistoryWindow}, Versioner: storage.APIObjectVersioner{}, GroupResource: resource,
			EventsHistoryWindow: config.EventsHistoryWindow, ResourcePrefix: prefix, KeyFunc: keyFunc,
			NewFunc: newFunc, NewListFunc: newListFunc, GetAttrsFunc: recent.noting(getAttrs),
			IndexerFuncs: triggers, Indexers: indexers, Codec: config.Codec,
		})
		if err != nil {
			return nil, nil, fmt.Errorf("make the watch cache of %s: %w", resource, err)
		}
		o.held.add(cached, keyFunc, newFunc, recent)
		delegator := cacher.NewCacheDelegator(cached, store)
		var once sync.Once
		return delegator, func() {
			once.Do(func() {
				delegator.Stop()
				cached.Stop()
			})
		}, nil
	}
}
