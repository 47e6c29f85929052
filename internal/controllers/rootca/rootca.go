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
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1informers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/controllers/namesake"
)

const (
	// Name is the ConfigMap's, and key that of its one value, as upstream.
	Name, key = "kube-root-ca.crt", "ca.crt"

	descriptionKey = "kubernetes.io/description"
	description    = "The certificate authority of this cluster's API server. It is kept as it is: changes are undone."
)

type keeper struct {
	client kubernetes.Interface
	data   map[string]string
}

// Run works until ctx ends; ca is the authority's certificate, PEM.
func Run(ctx context.Context, d namesake.Deps, ca []byte) error {
	k := &keeper{d.Client, map[string]string{key: string(ca)}}
	return namesake.Run(ctx, d, namesake.Kind{
		Kind: "ConfigMap", Name: Name, Keep: k.keep,
		Informer: func(client kubernetes.Interface, tweak func(*metav1.ListOptions)) cache.SharedIndexInformer {
			return corev1informers.NewFilteredConfigMapInformer(client, metav1.NamespaceAll, 0, cache.Indexers{}, tweak)
		},
	})
}

// keep makes a namespace's ConfigMap, or puts it right.
func (k *keeper) keep(ctx context.Context, namespace string, obj any) error {
	api := k.client.CoreV1().ConfigMaps(namespace)
	if obj == nil {
		_, err := api.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: namespace, Annotations: map[string]string{descriptionKey: description}},
			Data:       k.data,
		}, metav1.CreateOptions{})
		return err
	}
	is := obj.(*corev1.ConfigMap)
	if is.DeletionTimestamp != nil || maps.Equal(is.Data, k.data) && len(is.BinaryData) == 0 {
		return nil // the end of one that waits for a finalizer wakes us
	}
	next := is.DeepCopy()
	next.Data, next.BinaryData = k.data, nil
	_, err := api.Update(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsInvalid(err) && is.Immutable != nil && *is.Immutable {
		return k.replace(ctx, is)
	}
	return err
}

// replace deletes one that was made immutable with other contents; its end wakes us.
func (k *keeper) replace(ctx context.Context, is *corev1.ConfigMap) error {
	err := k.client.CoreV1().ConfigMaps(is.Namespace).Delete(ctx, is.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(is.UID))})
	if err != nil {
		return fmt.Errorf("replace it, for it is immutable: %w", err)
	}
	return nil
}
