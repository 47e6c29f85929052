package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/resources"
	"portico.dev/portico/internal/controllers/work"
	"portico.dev/portico/internal/core/quota"
)

const (
	// settle is for how long a status must be still before it is believed that no charge
	// is for a write under way: after its charge a write only has to reach the store,
	// which gives up after seven seconds (etcd's request time-out).
	settle = 30 * time.Second
	// relook is how soon a resource that isn't served, or not counted yet, is looked for
	// again.
	relook, recount = 30 * time.Second, 50 * time.Millisecond
)

// Deps is what Run needs.
type Deps struct {
	Client    kubernetes.Interface
	Caches    *caches.Shared // of the term; nil: its own
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	Log       *slog.Logger
	Clock     clock.WithTicker // nil: the real one
}

type controller struct {
	Deps
	view   *caches.View
	queue  *work.Queue[types.NamespacedName]
	quotas cache.Indexer
	ledger *ledger

	// The one worker's own.
	counted map[schema.GroupResource]*counter
	still   map[types.NamespacedName]stillness
}

// counter follows the objects of one resource.
type counter struct {
	synced func() bool
	looked time.Time // when it wasn't served; zero: it is
}

// stillness is since when a quota has had its present version.
type stillness struct {
	uid     types.UID
	version string
	since   time.Time
}

// Run works until ctx ends.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	quotas := view.Core().V1().ResourceQuotas().Informer()
	view.Index(quotas, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	c := &controller{
		Deps: d, view: view, queue: work.New[types.NamespacedName]("quotas", d.Log, d.Clock), quotas: quotas.GetIndexer(),
		ledger: newLedger(), counted: map[schema.GroupResource]*counter{}, still: map[types.NamespacedName]stillness{},
	}
	view.OnAny(quotas, func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			c.queue.Add(types.NamespacedName{Namespace: name.Namespace, Name: name.Name})
		}
	})
	// These two have caches in this process anyway.
	core := view.Core().V1()
	for gr, informer := range map[schema.GroupResource]cache.SharedIndexInformer{
		{Resource: "services"}: core.Services().Informer(), {Resource: "pods"}: core.Pods().Informer(),
	} {
		view.On(informer, c.ledger.handler(gr, c.changed))
		c.counted[gr] = &counter{synced: func() bool { return true }} // Ready waits for them
	}
	if ok, err := view.Ready(); !ok {
		return err
	}
	c.queue.Run(ctx, 1, c.sync)
	return nil
}

// changed queues the quotas of a namespace.
func (c *controller) changed(namespace string) {
	found, err := c.quotas.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return // there is such an index
	}
	for _, obj := range found {
		c.queue.Add(types.NamespacedName{Namespace: namespace, Name: obj.(*corev1.ResourceQuota).Name})
	}
}

// sync brings one quota's status up to date.
func (c *controller) sync(ctx context.Context, key types.NamespacedName) error {
	obj, exists, err := c.quotas.GetByKey(key.String())
	if err != nil {
		return err
	}
	if !exists {
		c.ledger.close(c.still[key].uid)
		delete(c.still, key)
		return nil
	}
	q := obj.(*corev1.ResourceQuota).DeepCopy()
	if c.still[key].uid != q.UID {
		c.ledger.close(c.still[key].uid)
	}
	if ready, err := c.follow(ctx, key, q); !ready || err != nil {
		return err
	}
	there, owed := c.ledger.open(q.UID, q.Namespace)
	quiet := c.quiet(key, q)
	status, waits := next(q, there, owed, quiet == 0)
	if waits {
		c.queue.AddAfter(key, quiet)
	}
	// With a refund an unchanged status is written too: the version proves that no charge
	// came between, which would make the refund due after all.
	if len(owed) > 0 || !equality.Semantic.DeepEqual(status, q.Status) {
		q.Status = status
		_, err := c.Client.CoreV1().ResourceQuotas(q.Namespace).UpdateStatus(ctx, q, metav1.UpdateOptions{})
		switch {
		case err == nil:
		case apierrors.IsNotFound(err):
			return nil
		case refused(err):
			return fmt.Errorf("write the status of ResourceQuota %s: %w", key, err)
		default:
			// It may be written. A refund paid twice would give away places that are
			// taken; one that wasn't paid comes back with the stillness.
			c.ledger.paid(q.UID, owed)
			return fmt.Errorf("write the status of ResourceQuota %s: %w", key, err)
		}
	}
	c.ledger.paid(q.UID, owed)
	return nil
}

// refused says whether an error proves that nothing was written.
func refused(err error) bool {
	status := apierrors.APIStatus(nil)
	return errors.As(err, &status) && status.Status().Code >= 400 && status.Status().Code < 500
}

// quiet is how long the quota must yet be still.
func (c *controller) quiet(key types.NamespacedName, q *corev1.ResourceQuota) time.Duration {
	now := c.Clock.Now()
	if s := c.still[key]; s.uid != q.UID || s.version != q.ResourceVersion {
		c.still[key] = stillness{q.UID, q.ResourceVersion, now}
	}
	return max(0, settle-now.Sub(c.still[key].since))
}

// next is the status that follows from what is there and what went. waits says that
// more is charged than there is, and that it is too early to say why.
func next(q *corev1.ResourceQuota, there, owed quota.Amounts, quiet bool) (_ corev1.ResourceQuotaStatus, waits bool) {
	status := corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: corev1.ResourceList{}}
	for name := range q.Spec.Hard {
		if _, ok := quota.Counted(name); !ok {
			continue
		}
		is := there[name]
		if quota.Scoped(&q.Spec) {
			is = 0
		}
		used := is
		charged, before := q.Status.Used[name]
		if _, limited := q.Status.Hard[name]; before && limited {
			used = max(charged.Value()-owed[name], is)
			if used > is && quiet {
				used = is
			}
			waits = waits || used > is
		}
		status.Used[name] = *resource.NewQuantity(used, resource.DecimalSI)
	}
	return status, waits
}

// follow begins to count what the quota names. It is ready when all of it is counted;
// what isn't served has no objects.
func (c *controller) follow(ctx context.Context, key types.NamespacedName, q *corev1.ResourceQuota) (ready bool, err error) {
	var served *resources.Served
	ready = true
	for name := range q.Spec.Hard {
		gr, ok := quota.Counted(name)
		if !ok {
			continue
		}
		known := c.counted[gr]
		if known == nil || (!known.looked.IsZero() && c.Clock.Since(known.looked) >= relook) {
			if served == nil {
				if served, err = resources.Discover(ctx, c.Discovery); err != nil {
					return false, err
				}
			}
			if known, err = c.begin(gr, served); err != nil {
				return false, err
			}
			c.counted[gr] = known
		}
		if !known.looked.IsZero() {
			c.queue.AddAfter(key, relook)
		} else if !known.synced() {
			ready = false
		}
	}
	if !ready {
		c.queue.AddAfter(key, recount)
	}
	return ready, nil
}

// begin follows the metadata of a resource's objects.
func (c *controller) begin(gr schema.GroupResource, served *resources.Served) (*counter, error) {
	for _, r := range served.Preferred {
		if r.GroupResource() != gr || !r.Namespaced || !r.Can("list", "watch") {
			continue
		}
		informer := metadatainformer.NewFilteredMetadataInformer(c.Metadata, r.GroupVersionResource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		if err := informer.SetTransform(namesOnly); err != nil {
			return nil, fmt.Errorf("count %s: %w", gr, err)
		}
		registration, err := informer.AddEventHandler(c.ledger.handler(gr, c.changed))
		if err != nil {
			return nil, fmt.Errorf("count %s: %w", gr, err)
		}
		c.view.Own(informer)
		return &counter{synced: registration.HasSynced}, nil
	}
	return &counter{looked: c.Clock.Now()}, nil
}

// namesOnly keeps of an object what counting it needs.
func namesOnly(obj any) (any, error) {
	if m, ok := obj.(*metav1.PartialObjectMetadata); ok {
		return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
			Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
		}}, nil
	}
	return obj, nil
}
