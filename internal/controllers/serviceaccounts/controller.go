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
	corev1informers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
)

// Name is the account that every namespace has.
const Name = "default"

const workers = 2

// Deps is what Run needs.
type Deps struct {
	Client kubernetes.Interface
	Caches *caches.Shared // of the term; nil: its own
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
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	namespaces := view.Core().V1().Namespaces().Informer()
	accounts := corev1informers.NewFilteredServiceAccountInformer(d.Client, metav1.NamespaceAll, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, Name).String()
	})
	view.Own(accounts)
	c := &controller{
		Deps: d, queue: work.New[string]("serviceaccounts", d.Log, d.Clock),
		namespaces: namespaces.GetIndexer(), accounts: accounts.GetIndexer(),
	}
	view.On(namespaces, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.queue.Add(obj.(*corev1.Namespace).Name) },
		UpdateFunc: func(_, obj any) { c.queue.Add(obj.(*corev1.Namespace).Name) },
	})
	view.On(accounts, cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			c.queue.Add(name.Namespace)
		}
	}})
	if ok, err := view.Ready(); !ok {
		return err
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
