package apiserver

import (
	"context"
	"reflect"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"portico.dev/portico/internal/apiserver/authz"
	"portico.dev/portico/internal/apiserver/registry"
)

// grantStorage is a role's or a binding's storage whose writes need the rights that
// they give away. It stands before the store, not in its strategy: that doesn't know
// of users, and must not fail for one.
type grantStorage struct {
	*registry.Storage
	check func(ctx context.Context, namespace string, obj runtime.Object) error
}

func (s *grantStorage) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if err := s.check(ctx, genericrequest.NamespaceValue(ctx), obj); err != nil {
		return nil, err
	}
	return s.Storage.Create(ctx, obj, validate, options)
}

// Update also stands for patches and for server-side apply, whose creations come here.
func (s *grantStorage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	checked := rest.WrapUpdatedObjectInfo(info, func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
		if onlyForGarbage(obj, old) {
			return obj, nil
		}
		return obj, s.check(ctx, genericrequest.NamespaceValue(ctx), obj)
	})
	return s.Storage.Update(ctx, name, checked, create, update, forceCreate, options)
}

// onlyForGarbage lets the garbage collector remove owners and finalizers from what it
// couldn't grant. Labels aren't among it: some roles collect others by label.
func onlyForGarbage(obj, old runtime.Object) bool {
	if old == nil || reflect.ValueOf(old).IsNil() {
		return false
	}
	was, err1 := meta.Accessor(old)
	same := obj.DeepCopyObject()
	m, err2 := meta.Accessor(same)
	if err1 != nil || err2 != nil || was.GetUID() == "" { // none was stored
		return false
	}
	m.SetOwnerReferences(was.GetOwnerReferences())
	m.SetFinalizers(was.GetFinalizers())
	m.SetManagedFields(was.GetManagedFields())
	return equality.Semantic.DeepEqual(same, old)
}

// everything is what somebody must have who makes a role that collects others: its
// rules are whatever will be labelled for it.
var everything = []rbacv1.PolicyRule{
	{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}},
	{NonResourceURLs: []string{"*"}, Verbs: []string{"*"}},
}

// grantChecks are those of the four kinds, by their plurals.
func grantChecks(g *authz.Grants) map[string]func(ctx context.Context, namespace string, obj runtime.Object) error {
	return map[string]func(context.Context, string, runtime.Object) error{
		"roles": func(ctx context.Context, namespace string, obj runtime.Object) error {
			r := obj.(*rbacv1.Role)
			return g.CheckRules(ctx, "roles", namespace, r.Name, r.Rules)
		},
		"clusterroles": func(ctx context.Context, _ string, obj runtime.Object) error {
			r := obj.(*rbacv1.ClusterRole)
			wanted := r.Rules
			if r.AggregationRule != nil {
				wanted = everything
			}
			return g.CheckRules(ctx, "clusterroles", "", r.Name, wanted)
		},
		"rolebindings": func(ctx context.Context, namespace string, obj runtime.Object) error {
			b := obj.(*rbacv1.RoleBinding)
			return g.CheckBind(ctx, "rolebindings", namespace, b.Name, b.RoleRef)
		},
		"clusterrolebindings": func(ctx context.Context, _ string, obj runtime.Object) error {
			b := obj.(*rbacv1.ClusterRoleBinding)
			return g.CheckBind(ctx, "clusterrolebindings", "", b.Name, b.RoleRef)
		},
	}
}
