package authz

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedrbacv1 "k8s.io/client-go/kubernetes/typed/rbac/v1"

	"portico.dev/portico/internal/core/rbac"
)

// Defaults are the default roles and bindings as they are stored.
type Defaults struct {
	roles    []*rbacv1.ClusterRole
	bindings []*rbacv1.ClusterRoleBinding
}

// Bootstrap makes the default roles and bindings that are missing, and gives the
// others what they lack. It changes nothing where nothing is missing, so several
// servers may do it at once; on a conflict it is to be called again.
func Bootstrap(ctx context.Context, client typedrbacv1.RbacV1Interface) (d Defaults, err error) {
	if d.roles, err = bootstrapRoles(ctx, client.ClusterRoles()); err != nil {
		return Defaults{}, err
	}
	if d.bindings, err = bootstrapBindings(ctx, client.ClusterRoleBindings()); err != nil {
		return Defaults{}, err
	}
	return d, nil
}

func bootstrapRoles(ctx context.Context, client typedrbacv1.ClusterRoleInterface) ([]*rbacv1.ClusterRole, error) {
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ClusterRoles: %w", err)
	}
	stored := map[string]*rbacv1.ClusterRole{}
	for i := range list.Items {
		stored[list.Items[i].Name] = &list.Items[i]
	}
	defaults := rbac.DefaultClusterRoles()
	for i, wanted := range defaults {
		have, err := keepRole(ctx, client, stored[wanted.Name], wanted)
		switch {
		case err == nil:
			defaults[i] = have
		case !apierrors.IsAlreadyExists(err): // else another server was first and made the same
			return nil, fmt.Errorf("keep ClusterRole %s: %w", wanted.Name, err)
		}
	}
	return defaults, nil
}

// keepRole returns the role as it is stored then.
func keepRole(ctx context.Context, client typedrbacv1.ClusterRoleInterface, have, wanted *rbacv1.ClusterRole) (*rbacv1.ClusterRole, error) {
	if have == nil {
		return client.Create(ctx, wanted, metav1.CreateOptions{})
	}
	if next, changed := rbac.ReconcileRole(have, wanted); changed {
		return client.Update(ctx, next, metav1.UpdateOptions{})
	}
	return have, nil
}

func bootstrapBindings(ctx context.Context, client typedrbacv1.ClusterRoleBindingInterface) ([]*rbacv1.ClusterRoleBinding, error) {
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	stored := map[string]*rbacv1.ClusterRoleBinding{}
	for i := range list.Items {
		stored[list.Items[i].Name] = &list.Items[i]
	}
	defaults := rbac.DefaultClusterRoleBindings()
	for i, wanted := range defaults {
		have, err := keepBinding(ctx, client, stored[wanted.Name], wanted)
		switch {
		case err == nil:
			defaults[i] = have
		case !apierrors.IsAlreadyExists(err): // as for roles
			return nil, fmt.Errorf("keep ClusterRoleBinding %s: %w", wanted.Name, err)
		}
	}
	return defaults, nil
}

// keepBinding is the same for a binding.
func keepBinding(ctx context.Context, client typedrbacv1.ClusterRoleBindingInterface, have, wanted *rbacv1.ClusterRoleBinding) (*rbacv1.ClusterRoleBinding, error) {
	if have == nil {
		return client.Create(ctx, wanted, metav1.CreateOptions{})
	}
	next, changed, recreate := rbac.ReconcileBinding(have, wanted)
	if recreate {
		only := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &have.UID}}
		if err := client.Delete(ctx, have.Name, only); err != nil {
			return nil, err
		}
		return client.Create(ctx, wanted, metav1.CreateOptions{})
	}
	if changed {
		return client.Update(ctx, next, metav1.UpdateOptions{})
	}
	return have, nil
}

// Sees reports whether the authorizer decides by these very roles and bindings. It
// doesn't while their watch events are on the way, nor once somebody has changed one.
func (z *Authorizer) Sees(d Defaults) bool {
	z.mu.RLock()
	defer z.mu.RUnlock()
	for _, r := range d.roles {
		if rules, ok := z.policy.Role(ref(r)); !ok || !equality.Semantic.DeepEqual(rules, r.Rules) {
			return false
		}
	}
	for _, b := range d.bindings {
		role, subjects, ok := z.policy.Binding(ref(b))
		if !ok || role != rbac.RoleOf("", b.RoleRef) || !equality.Semantic.DeepEqual(subjects, b.Subjects) {
			return false
		}
	}
	return true
}
