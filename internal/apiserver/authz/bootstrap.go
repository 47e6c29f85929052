package authz

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedrbacv1 "k8s.io/client-go/kubernetes/typed/rbac/v1"

	"portico.dev/portico/internal/core/rbac"
)

// Bootstrap makes the default roles and bindings that are missing, and gives the
// others what they lack. It changes nothing where nothing is missing, so several
// servers may do it at once; on a conflict it is to be called again.
func Bootstrap(ctx context.Context, client typedrbacv1.RbacV1Interface) error {
	if err := bootstrapRoles(ctx, client.ClusterRoles()); err != nil {
		return err
	}
	return bootstrapBindings(ctx, client.ClusterRoleBindings())
}

func bootstrapRoles(ctx context.Context, client typedrbacv1.ClusterRoleInterface) error {
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterRoles: %w", err)
	}
	stored := map[string]*rbacv1.ClusterRole{}
	for i := range list.Items {
		stored[list.Items[i].Name] = &list.Items[i]
	}
	for _, wanted := range rbac.DefaultClusterRoles() {
		if have := stored[wanted.Name]; have == nil {
			_, err = client.Create(ctx, wanted, metav1.CreateOptions{})
		} else if next, changed := rbac.ReconcileRole(have, wanted); changed {
			_, err = client.Update(ctx, next, metav1.UpdateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) { // another server was first
			return fmt.Errorf("keep ClusterRole %s: %w", wanted.Name, err)
		}
	}
	return nil
}

func bootstrapBindings(ctx context.Context, client typedrbacv1.ClusterRoleBindingInterface) error {
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	stored := map[string]*rbacv1.ClusterRoleBinding{}
	for i := range list.Items {
		stored[list.Items[i].Name] = &list.Items[i]
	}
	for _, wanted := range rbac.DefaultClusterRoleBindings() {
		if err := keepBinding(ctx, client, stored[wanted.Name], wanted); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("keep ClusterRoleBinding %s: %w", wanted.Name, err)
		}
	}
	return nil
}

func keepBinding(ctx context.Context, client typedrbacv1.ClusterRoleBindingInterface, have, wanted *rbacv1.ClusterRoleBinding) error {
	if have == nil {
		_, err := client.Create(ctx, wanted, metav1.CreateOptions{})
		return err
	}
	next, changed, recreate := rbac.ReconcileBinding(have, wanted)
	if recreate {
		only := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}}
		if err := client.Delete(ctx, have.Name, only); err != nil {
			return err
		}
		_, err := client.Create(ctx, wanted, metav1.CreateOptions{})
		return err
	}
	if changed {
		_, err := client.Update(ctx, next, metav1.UpdateOptions{})
		return err
	}
	return nil
}
