package authz

import (
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/core/rbac"
)

// Follow keeps the authorizer at what the factory's informers see. Once synced says
// so, all that was stored before counts.
func (z *Authorizer) Follow(factory informers.SharedInformerFactory) (synced func() bool, err error) {
	objects := factory.Rbac().V1()
	var registrations []cache.ResourceEventHandlerRegistration
	for _, f := range []struct {
		kind     string
		informer cache.SharedIndexInformer
		set      func(obj any)
		forget   func(rbac.Ref)
	}{
		{"clusterroles", objects.ClusterRoles().Informer(), func(obj any) {
			r := obj.(*rbacv1.ClusterRole)
			z.policy.SetRole(ref(r), r.Rules)
		}, z.policy.DeleteRole},
		{"roles", objects.Roles().Informer(), func(obj any) {
			r := obj.(*rbacv1.Role)
			z.policy.SetRole(ref(r), r.Rules)
		}, z.policy.DeleteRole},
		{"clusterrolebindings", objects.ClusterRoleBindings().Informer(), func(obj any) {
			b := obj.(*rbacv1.ClusterRoleBinding)
			z.policy.SetBinding(ref(b), b.RoleRef, b.Subjects)
		}, z.policy.DeleteBinding},
		{"rolebindings", objects.RoleBindings().Informer(), func(obj any) {
			b := obj.(*rbacv1.RoleBinding)
			z.policy.SetBinding(ref(b), b.RoleRef, b.Subjects)
		}, z.policy.DeleteBinding},
	} {
		set := func(obj any) {
			z.mu.Lock()
			defer z.mu.Unlock()
			f.set(obj)
		}
		registration, err := f.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    set,
			UpdateFunc: func(_, obj any) { set(obj) },
			DeleteFunc: func(obj any) {
				if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = unknown.Obj
				}
				if m, ok := obj.(metav1.Object); ok {
					z.mu.Lock()
					defer z.mu.Unlock()
					f.forget(ref(m))
				}
			},
		})
		if err != nil {
			return nil, fmt.Errorf("follow %s: %w", f.kind, err)
		}
		registrations = append(registrations, registration)
	}
	return func() bool {
		for _, r := range registrations {
			if !r.HasSynced() {
				return false
			}
		}
		return true
	}, nil
}

func ref(m metav1.Object) rbac.Ref { return rbac.Ref{Namespace: m.GetNamespace(), Name: m.GetName()} }
