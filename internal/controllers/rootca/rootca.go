// Package rootca keeps the ConfigMap kube-root-ca.crt in each namespace: the certificate
// by which workloads know the API server (KEP-2907, `RootCAConfigMap`).
//
// In: namespaces and their ConfigMaps of that name, by watch. Out: such ConfigMaps, made,
// and put right where others changed them; none in namespaces that end. Everybody may
// read them: they hold no secret.
package rootca

import (
	"context"
	"fmt"
	"log/slog"
	"maps"

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

const (
	// Name is the ConfigMap's, and key that of its one value, as upstream.
	Name, key = "kube-root-ca.crt", "ca.crt"

	descriptionKey = "kubernetes.io/description"
	description    = "The certificate authority of this cluster's API server. It is kept as it is: changes are undone."

	workers = 2
)

// Deps is what Run needs.
type Deps struct {
	Client kubernetes.Interface
	Caches *caches.Shared // of the term; nil: its own
	CA     []byte         // the authority's certificate, PEM
	Log    *slog.Logger
	Clock  clock.WithTicker // nil: the real one
}

type controller struct {
	Deps
	queue            *work.Queue[string]
	namespaces, maps cache.Indexer
}

// Run works until ctx ends.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	namespaces := view.Core().V1().Namespaces().Informer()
	configMaps := corev1informers.NewFilteredConfigMapInformer(d.Client, metav1.NamespaceAll, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, Name).String()
	})
	view.Own(configMaps)
	c := &controller{
		Deps: d, queue: work.New[string]("rootca", d.Log, d.Clock),
		namespaces: namespaces.GetIndexer(), maps: configMaps.GetIndexer(),
	}
	view.On(namespaces, cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.queue.Add(obj.(*corev1.Namespace).Name) },
		UpdateFunc: func(_, obj any) { c.queue.Add(obj.(*corev1.Namespace).Name) },
	})
	view.OnAny(configMaps, func(obj any) {
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

// sync makes a namespace's ConfigMap, or puts it right.
func (c *controller) sync(ctx context.Context, namespace string) error {
	obj, exists, err := c.namespaces.GetByKey(namespace)
	if err != nil || !exists || obj.(*corev1.Namespace).DeletionTimestamp != nil {
		return err
	}
	wanted := map[string]string{key: string(c.CA)}
	obj, exists, err = c.maps.GetByKey(namespace + "/" + Name)
	if err != nil {
		return err
	}
	api := c.Client.CoreV1().ConfigMaps(namespace)
	if !exists {
		_, err = api.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: namespace, Annotations: map[string]string{descriptionKey: description}},
			Data:       wanted,
		}, metav1.CreateOptions{})
	} else {
		is := obj.(*corev1.ConfigMap)
		if is.DeletionTimestamp != nil || maps.Equal(is.Data, wanted) && len(is.BinaryData) == 0 {
			return nil // the end of one that waits for a finalizer wakes us
		}
		is = is.DeepCopy()
		is.Data, is.BinaryData = wanted, nil
		_, err = api.Update(ctx, is, metav1.UpdateOptions{})
	}
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
		return nil // somebody was faster, or the namespace is gone: the watch tells
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsInvalid(err) && exists && immutable(obj):
		return c.replace(ctx, obj.(*corev1.ConfigMap))
	}
	return fmt.Errorf("write ConfigMap %s/%s: %w", namespace, Name, err)
}

func immutable(obj any) bool {
	is := obj.(*corev1.ConfigMap).Immutable
	return is != nil && *is
}

// replace deletes one that was made immutable with other contents; its end wakes us.
func (c *controller) replace(ctx context.Context, is *corev1.ConfigMap) error {
	err := c.Client.CoreV1().ConfigMaps(is.Namespace).Delete(ctx, is.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(is.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("replace ConfigMap %s/%s, which is immutable: %w", is.Namespace, is.Name, err)
	}
	return nil
}
