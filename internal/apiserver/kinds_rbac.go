package apiserver

import (
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/core/rbac"
)

func roleKind() kind[*rbacv1.Role] {
	return kind[*rbacv1.Role]{
		gv: rbacv1.SchemeGroupVersion, plural: "roles", singular: "role", namespaced: true,
		newObject: func() *rbacv1.Role { return &rbacv1.Role{} },
		newList:   func() runtime.Object { return &rbacv1.RoleList{} },
		rules: rules[*rbacv1.Role]{
			createOnUpdate: true, // as upstream, for `kubectl auth reconcile`
			validate:       rbac.ValidateRole,
			validateUpdate: func(r, old *rbacv1.Role) field.ErrorList {
				return append(validateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta), rbac.ValidateRole(r)...)
			},
		},
		table: table[*rbacv1.Role]{
			columns: []metav1.TableColumnDefinition{column("Created At", "When it was created.")},
			row:     func(r *rbacv1.Role) []any { return []any{created(&r.ObjectMeta)} },
		},
	}
}

func clusterRoleKind() kind[*rbacv1.ClusterRole] {
	return kind[*rbacv1.ClusterRole]{
		gv: rbacv1.SchemeGroupVersion, plural: "clusterroles", singular: "clusterrole",
		newObject: func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
		newList:   func() runtime.Object { return &rbacv1.ClusterRoleList{} },
		rules: rules[*rbacv1.ClusterRole]{
			createOnUpdate: true,
			validate:       rbac.ValidateClusterRole,
			validateUpdate: func(r, old *rbacv1.ClusterRole) field.ErrorList {
				return append(validateMetaUpdate(&r.ObjectMeta, &old.ObjectMeta), rbac.ValidateClusterRole(r)...)
			},
		},
		table: table[*rbacv1.ClusterRole]{
			columns: []metav1.TableColumnDefinition{column("Created At", "When it was created.")},
			row:     func(r *rbacv1.ClusterRole) []any { return []any{created(&r.ObjectMeta)} },
		},
	}
}

func roleBindingKind() kind[*rbacv1.RoleBinding] {
	validate := func(b *rbacv1.RoleBinding) field.ErrorList {
		return rbac.ValidateBinding(&b.ObjectMeta, b.RoleRef, b.Subjects, true)
	}
	return kind[*rbacv1.RoleBinding]{
		gv: rbacv1.SchemeGroupVersion, plural: "rolebindings", singular: "rolebinding", namespaced: true,
		newObject: func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
		newList:   func() runtime.Object { return &rbacv1.RoleBindingList{} },
		rules: rules[*rbacv1.RoleBinding]{
			createOnUpdate: true,
			validate:       validate,
			validateUpdate: func(b, old *rbacv1.RoleBinding) field.ErrorList {
				errs := append(validateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta), validate(b)...)
				return append(errs, rbac.ValidateRoleRefUpdate(b.RoleRef, old.RoleRef)...)
			},
		},
		table: table[*rbacv1.RoleBinding]{
			columns: bindingColumns(),
			row:     func(b *rbacv1.RoleBinding) []any { return bindingRow(b.RoleRef, b.Subjects) },
		},
	}
}

func clusterRoleBindingKind() kind[*rbacv1.ClusterRoleBinding] {
	validate := func(b *rbacv1.ClusterRoleBinding) field.ErrorList {
		return rbac.ValidateBinding(&b.ObjectMeta, b.RoleRef, b.Subjects, false)
	}
	return kind[*rbacv1.ClusterRoleBinding]{
		gv: rbacv1.SchemeGroupVersion, plural: "clusterrolebindings", singular: "clusterrolebinding",
		newObject: func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
		newList:   func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },
		rules: rules[*rbacv1.ClusterRoleBinding]{
			createOnUpdate: true,
			validate:       validate,
			validateUpdate: func(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
				errs := append(validateMetaUpdate(&b.ObjectMeta, &old.ObjectMeta), validate(b)...)
				return append(errs, rbac.ValidateRoleRefUpdate(b.RoleRef, old.RoleRef)...)
			},
		},
		table: table[*rbacv1.ClusterRoleBinding]{
			columns: bindingColumns(),
			row:     func(b *rbacv1.ClusterRoleBinding) []any { return bindingRow(b.RoleRef, b.Subjects) },
		},
	}
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
		column("Role", "The role that is given."), wide("Users", "Users that have it."), wide("Groups", "Groups that have it."),
		wide("ServiceAccounts", "Service accounts that have it."),
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
