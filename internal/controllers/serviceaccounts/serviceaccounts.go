// Package serviceaccounts keeps a ServiceAccount `default` in each namespace: what
// runs there acts as it unless told otherwise.
//
// In: namespaces and their accounts, by watch. Out: accounts that are missing, nothing
// else; those in namespaces that end aren't made anew.
package serviceaccounts

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1informers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/controllers/namesake"
)

// Name is the account that every namespace has.
const Name = "default"

// Run works until ctx ends.
func Run(ctx context.Context, d namesake.Deps) error {
	return namesake.Run(ctx, d, namesake.Kind{
		Kind: "ServiceAccount", Name: Name,
		Informer: func(client kubernetes.Interface, tweak func(*metav1.ListOptions)) cache.SharedIndexInformer {
			return corev1informers.NewFilteredServiceAccountInformer(client, metav1.NamespaceAll, 0, cache.Indexers{}, tweak)
		},
		Keep: func(ctx context.Context, namespace string, is any) error {
			if is != nil {
				return nil
			}
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: namespace}}
			_, err := d.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
			return err
		},
	})
}
