// Package namesake runs the controllers that keep an object of one name in each
// namespace.
//
// In: namespaces and the objects of that name, by watch. Out: calls of Kind.Keep, for
// namespaces that aren't ending. What an object must be is the controller's own decision.
package namesake

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
)

const workers = 2

// Deps is what Run needs.
type Deps struct {
	Client kubernetes.Interface
	Caches *caches.Shared // of the term; nil: its own
	Log    *slog.Logger
	Clock  clock.WithTicker // nil: the real one
}

// Kind is what is kept.
type Kind struct {
	Kind, Name string
	// Informer makes the informer of all namespaces' objects that tweak lets through.
	Informer func(client kubernetes.Interface, tweak func(*metav1.ListOptions)) cache.SharedIndexInformer
	// Keep makes the namespace's object, or puts it right; is is the present one or nil.
	// That somebody was faster, or that the namespace ends, is no failure.
	Keep func(ctx context.Context, namespace string, is any) error
}

type controller struct {
	kind                Kind
	queue               *work.Queue[string]
	namespaces, objects cache.Indexer
}

// Run works until ctx ends.
func Run(ctx context.Context, d Deps, kind Kind) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	namespaces := view.Core().V1().Namespaces().Informer()
	objects := kind.Informer(d.Client, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, kind.Name).String()
	})
	view.Own(objects)
	c := &controller{
		kind: kind, queue: work.New[string](kind.Kind+" "+kind.Name, d.Log, d.Clock),
		namespaces: namespaces.GetIndexer(), objects: objects.GetIndexer(),
	}
	view.On(namespaces, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.queue.Add(obj.(*corev1.Namespace).Name) },
		UpdateFunc: func(_, obj any) { c.queue.Add(obj.(*corev1.Namespace).Name) },
	})
	view.OnAny(objects, func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			c.queue.Add(name.Namespace)
		}
	})
	if ok, err := view.Ready(); !ok {
		return err
	}
	c.queue.Run(ctx, workers, c.sync)
	return nil
}

func (c *controller) sync(ctx context.Context, namespace string) error {
	obj, exists, err := c.namespaces.GetByKey(namespace)
	if err != nil || !exists || obj.(*corev1.Namespace).DeletionTimestamp != nil {
		return err
	}
	is, exists, err := c.objects.GetByKey(namespace + "/" + c.kind.Name)
	if err != nil {
		return err
	}
	if !exists {
		is = nil
	}
	err = c.kind.Keep(ctx, namespace, is)
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil // somebody was faster, or the namespace is gone: the watch tells
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	}
	return fmt.Errorf("keep %s %s/%s: %w", c.kind.Kind, namespace, c.kind.Name, err)
}
