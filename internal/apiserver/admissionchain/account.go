package admissionchain

import (
	"context"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/core/quota"
)

// backTries bound how often a refund is tried against other writers of the same status.
const backTries = 20

// account reads and writes quotas: from the cache, and past it once it proved stale.
type account struct {
	quotas typedcorev1.ResourceQuotasGetter
	lister listersv1.ResourceQuotaLister

	paying sync.Mutex // one refund is written at a time

	mu     sync.Mutex                       // guards the following
	newest map[string]*corev1.ResourceQuota // what the cache doesn't have yet
	owed   map[types.UID]quota.Amounts      // refunds that nobody has begun to write
}

func newAccount(quotas typedcorev1.ResourceQuotasGetter, lister listersv1.ResourceQuotaLister) *account {
	return &account{quotas: quotas, lister: lister, newest: map[string]*corev1.ResourceQuota{}, owed: map[types.UID]quota.Amounts{}}
}

// forget drops what is remembered of a quota that went.
func (c *account) forget(obj any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.newest, key)
}

var versions = storage.APIObjectVersioner{}

// UpdateQuotaStatus implements resourcequota.QuotaAccessor. The library hands no context
// on and waits 10 s for what it has charged; the server's own time-out ends the request.
func (c *account) UpdateQuotaStatus(q *corev1.ResourceQuota) error {
	return c.write(context.Background(), q)
}

func (c *account) write(ctx context.Context, q *corev1.ResourceQuota) error {
	client := c.quotas.ResourceQuotas(q.Namespace)
	latest, err := client.UpdateStatus(ctx, q, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) {
		// The next look must see what was in the way.
		if live, readErr := client.Get(ctx, q.Name, metav1.GetOptions{}); readErr == nil {
			c.remember(live)
		}
	}
	if err != nil {
		return err
	}
	c.remember(latest)
	return nil
}

func (c *account) remember(q *corev1.ResourceQuota) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := q.Namespace + "/" + q.Name
	if old := c.newest[key]; old == nil || versions.CompareResourceVersion(old, q) < 0 {
		c.newest[key] = q
	}
}

// GetQuotas implements resourcequota.QuotaAccessor.
func (c *account) GetQuotas(namespace string) ([]corev1.ResourceQuota, error) {
	cached, err := c.lister.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("look for the quotas of namespace %s: %w", namespace, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]corev1.ResourceQuota, 0, len(cached))
	for _, q := range cached {
		key := q.Namespace + "/" + q.Name
		if newer := c.newest[key]; newer != nil && versions.CompareResourceVersion(q, newer) < 0 {
			q = newer
		} else {
			delete(c.newest, key)
		}
		out = append(out, *q.DeepCopy())
	}
	return out, nil
}

// giveBack takes amounts off the use of a namespace's quotas again. Refunds that come
// while another is written become one write.
func (c *account) giveBack(ctx context.Context, namespace string, back map[types.UID]quota.Amounts) error {
	c.mu.Lock()
	for uid, amounts := range back {
		if c.owed[uid] == nil {
			c.owed[uid] = quota.Amounts{}
		}
		for name, n := range amounts {
			c.owed[uid][name] += n
		}
	}
	c.mu.Unlock()

	c.paying.Lock()
	defer c.paying.Unlock()
	for uid := range back {
		c.mu.Lock()
		amounts := c.owed[uid]
		delete(c.owed, uid)
		c.mu.Unlock()
		if len(amounts) == 0 {
			continue // who wrote before us has paid ours too
		}
		if err := c.pay(ctx, namespace, uid, amounts); err != nil {
			return fmt.Errorf("give back %v to the quotas of namespace %s: %w", maps.Clone(amounts), namespace, err)
		}
	}
	return nil
}

// pay writes a refund. An answer that leaves open whether it was written ends it: twice
// would be too much, and what is too little the quota controller finds.
func (c *account) pay(ctx context.Context, namespace string, uid types.UID, amounts quota.Amounts) error {
	var err error
	for range backTries {
		quotas, listErr := c.GetQuotas(namespace)
		if listErr != nil {
			return listErr
		}
		found := false
		for i := range quotas {
			if q := &quotas[i]; q.UID == uid {
				found = true
				takeOff(q.Status.Used, amounts)
				err = c.write(ctx, q)
			}
		}
		if !found || !apierrors.IsConflict(err) || ctx.Err() != nil {
			break
		}
	}
	if apierrors.IsNotFound(err) {
		return nil // the quota went
	}
	return err
}

// takeOff lowers what is used, where it is counted.
func takeOff(used corev1.ResourceList, amounts quota.Amounts) {
	for name, n := range amounts {
		if is, ok := used[name]; ok {
			used[name] = *resource.NewQuantity(max(0, is.Value()-n), resource.DecimalSI)
		}
	}
}
