// Package serviceaccounts keeps a ServiceAccount `default` in each namespace: what
// runs there acts as it unless told otherwise.
//
// In: namespaces and their accounts, by watch. Out: accounts that are missing, nothing
// else; those in namespaces that end aren't made anew.
package serviceaccounts

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/work"
)

// Name is the account that every namespace has.
const Name = "default"

const workers = 2

// Deps is what Run needs.
type Deps struct {
	Client kubernetes.Interface
	Log    *slog.Logger
	Clock  clock.WithTicker // nil: the real one
}

type controller struct {
	Deps
	queue                *work.Queue[string]
	namespaces, accounts cache.Indexer
}

// Run works until ctx ends.
func Run(ctx context.Context, d Deps) error {
	ctx, cancel := context.WithCancel(ctx)
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	namespaces := informers.NewSharedInformerFactory(d.Client, 0)
	accounts := informers.NewSharedInformerFactoryWithOptions(d.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, Name).String()
	}))
	defer namespaces.Shutdown() // after cancel: defers run in reverse
	defer accounts.Shutdown()
	defer cancel()
	ofNamespaces, ofAccounts := namespaces.Core().V1().Namespaces().Informer(), accounts.Core().V1().ServiceAccounts().Informer()
	c := &controller{
		Deps: d, queue: work.New[string]("serviceaccounts", d.Log, d.Clock),
		namespaces: ofNamespaces.GetIndexer(), accounts: ofAccounts.GetIndexer(),
	}
	seen, err := ofNamespaces.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.queue.Add(obj.(*corev1.Namespace).Name) },
		UpdateFunc: func(_, obj any) { c.queue.Add(obj.(*corev1.Namespace).Name) },
	})
	if err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	removed, err := ofAccounts.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
			if namespace, _, err := cache.SplitMetaNamespaceKey(key); err == nil {
				c.queue.Add(namespace)
			}
		}
	}})
	if err != nil {
		return fmt.Errorf("watch ServiceAccounts: %w", err)
	}
	namespaces.StartWithContext(ctx)
	accounts.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), seen.HasSynced, removed.HasSynced) {
		return nil // ctx ended first
	}
	c.queue.Run(ctx, workers, c.sync)
	return nil
}

// sync makes the account of a namespace where it is missing.
func (c *controller) sync(ctx context.Context, namespace string) error {
	obj, exists, err := c.namespaces.GetByKey(namespace)
	if err != nil || !exists || obj.(*corev1.Namespace).DeletionTimestamp != nil {
		return err
	}
	if _, exists, err := c.accounts.GetByKey(namespace + "/" + Name); err != nil || exists {
		return err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: namespace}}
	_, err = c.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return nil // the namespace may be gone meanwhile
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	}
	return fmt.Errorf("create ServiceAccount %s/%s: %w", namespace, Name, err)
}
