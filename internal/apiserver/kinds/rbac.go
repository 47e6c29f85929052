package kinds

import (
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/apiserver/registry"
	"portico.dev/portico/internal/core/rbac"
)

// RoleKind and the three that follow are what rights are made of.
func RoleKind() registry.Kind[*rbacv1.Role] {
	k := rights(registry.Stored[rbacv1.Role, rbacv1.RoleList](rbacv1.SchemeGroupVersion, "roles", "role", registry.InNamespace),
		func(r *rbacv1.Role) *metav1.ObjectMeta { return &r.ObjectMeta }, rbac.ValidateRole)
	return k.Printed(func(r *rbacv1.Role) []any { return []any{created(&r.ObjectMeta)} }, createdAt())
}

// ClusterRoleKind is a role of all namespaces.
func ClusterRoleKind() registry.Kind[*rbacv1.ClusterRole] {
	k := rights(registry.Stored[rbacv1.ClusterRole, rbacv1.ClusterRoleList](rbacv1.SchemeGroupVersion, "clusterroles", "clusterrole", registry.InCluster),
		func(r *rbacv1.ClusterRole) *metav1.ObjectMeta { return &r.ObjectMeta }, rbac.ValidateClusterRole)
	return k.Printed(func(r *rbacv1.ClusterRole) []any { return []any{created(&r.ObjectMeta)} }, createdAt())
}

// RoleBindingKind gives a role in one namespace.
func RoleBindingKind() registry.Kind[*rbacv1.RoleBinding] {
	k := rights(registry.Stored[rbacv1.RoleBinding, rbacv1.RoleBindingList](rbacv1.SchemeGroupVersion, "rolebindings", "rolebinding", registry.InNamespace),
		func(b *rbacv1.RoleBinding) *metav1.ObjectMeta { return &b.ObjectMeta },
		func(b *rbacv1.RoleBinding) field.ErrorList {
			return rbac.ValidateBinding(&b.ObjectMeta, b.RoleRef, b.Subjects, true)
		})
	return k.Fixed(func(b, old *rbacv1.RoleBinding) field.ErrorList {
		return rbac.ValidateRoleRefUpdate(b.RoleRef, old.RoleRef)
	}).
		Printed(func(b *rbacv1.RoleBinding) []any { return bindingRow(b.RoleRef, b.Subjects) }, bindingColumns()...)
}

// ClusterRoleBindingKind gives a role everywhere.
func ClusterRoleBindingKind() registry.Kind[*rbacv1.ClusterRoleBinding] {
	k := rights(registry.Stored[rbacv1.ClusterRoleBinding, rbacv1.ClusterRoleBindingList](rbacv1.SchemeGroupVersion, "clusterrolebindings", "clusterrolebinding", registry.InCluster),
		func(b *rbacv1.ClusterRoleBinding) *metav1.ObjectMeta { return &b.ObjectMeta },
		func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
			return rbac.ValidateBinding(&b.ObjectMeta, b.RoleRef, b.Subjects, false)
		})
	return k.Fixed(func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
		return rbac.ValidateRoleRefUpdate(b.RoleRef, old.RoleRef)
	}).
		Printed(func(b *rbacv1.ClusterRoleBinding) []any { return bindingRow(b.RoleRef, b.Subjects) }, bindingColumns()...)
}

// rights has a kind's objects checked by core/rbac. PUT creates them, as upstream has it for
// `kubectl auth reconcile`.
func rights[T runtime.Object](k registry.Kind[T], metaOf func(T) *metav1.ObjectMeta, validate func(T) field.ErrorList) registry.Kind[T] {
	k.Rules = registry.Rules[T]{
		CreateOnUpdate: true,
		Validate:       validate,
		ValidateUpdate: func(obj, old T) field.ErrorList {
			return append(validateMetaUpdate(metaOf(obj), metaOf(old)), validate(obj)...)
		},
	}
	return k
}

func createdAt() metav1.TableColumnDefinition {
	return registry.Column("Created At", "When it was created.")
}

// addRBACDefaults fills API groups of references that go without saying.
func addRBACDefaults(s *runtime.Scheme) {
	setDefaults(s, func(b *rbacv1.RoleBinding) {
		rbac.SetRoleRefDefaults(&b.RoleRef)
		rbac.SetSubjectDefaults(b.Subjects)
	}, func(l *rbacv1.RoleBindingList) []rbacv1.RoleBinding { return l.Items })
	setDefaults(s, func(b *rbacv1.ClusterRoleBinding) {
		rbac.SetRoleRefDefaults(&b.RoleRef)
		rbac.SetSubjectDefaults(b.Subjects)
	}, func(l *rbacv1.ClusterRoleBindingList) []rbacv1.ClusterRoleBinding { return l.Items })
}

func created(m *metav1.ObjectMeta) string {
	return m.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z")
}

func bindingColumns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		registry.Column("Role", "The role that is given."), registry.Wide("Users", "Users that have it."), registry.Wide("Groups", "Groups that have it."),
		registry.Wide("ServiceAccounts", "Service accounts that have it."),
	}
}

func bindingRow(role rbacv1.RoleRef, subjects []rbacv1.Subject) []any {
	byKind := map[string][]string{}
	for _, s := range subjects {
		name := s.Name
		if s.Kind == rbacv1.ServiceAccountKind {
			name = s.Namespace + "/" + s.Name
		}
		byKind[s.Kind] = append(byKind[s.Kind], name)
	}
	join := func(kind string) string { return strings.Join(byKind[kind], ", ") }
	return []any{fmt.Sprintf("%s/%s", role.Kind, role.Name), join(rbacv1.UserKind), join(rbacv1.GroupKind), join(rbacv1.ServiceAccountKind)}
}
