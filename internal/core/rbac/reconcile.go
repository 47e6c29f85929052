package rbac

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReconcileRole gives a stored default role with what it lacks; changed is false where
// that is nothing, or where its owner switched updates off. What was added to it stays.
func ReconcileRole(stored, wanted *rbacv1.ClusterRole) (next *rbacv1.ClusterRole, changed bool) {
	if stored.Annotations[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return stored, false
	}
	next = stored.DeepCopy()
	changed = mergeMeta(&next.ObjectMeta, &wanted.ObjectMeta)
	if wanted.AggregationRule != nil {
		if next.AggregationRule == nil {
			next.AggregationRule = &rbacv1.AggregationRule{}
		}
		for _, s := range wanted.AggregationRule.ClusterRoleSelectors {
			if !slices.ContainsFunc(next.AggregationRule.ClusterRoleSelectors, func(have metav1.LabelSelector) bool {
				return equality.Semantic.DeepEqual(have, s)
			}) {
				next.AggregationRule.ClusterRoleSelectors = append(next.AggregationRule.ClusterRoleSelectors, s)
				changed = true
			}
		}
		return next, changed // its rules are the aggregation's
	}
	if missing := Missing(next.Rules, wanted.Rules); len(missing) > 0 {
		next.Rules = append(next.Rules, missing...)
		changed = true
	}
	return next, changed
}

// ReconcileBinding is the same for a binding. A binding to another role can't be
// changed: recreate tells to delete it first.
func ReconcileBinding(stored, wanted *rbacv1.ClusterRoleBinding) (next *rbacv1.ClusterRoleBinding, changed, recreate bool) {
	if stored.Annotations[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return stored, false, false
	}
	if stored.RoleRef != wanted.RoleRef {
		return wanted, true, true
	}
	next = stored.DeepCopy()
	changed = mergeMeta(&next.ObjectMeta, &wanted.ObjectMeta)
	for _, s := range wanted.Subjects {
		if !slices.Contains(next.Subjects, s) {
			next.Subjects = append(next.Subjects, s)
			changed = true
		}
	}
	return next, changed, false
}

// mergeMeta adds missing labels and annotations. Those that a person changed stay.
func mergeMeta(m, wanted *metav1.ObjectMeta) (changed bool) {
	merge := func(have *map[string]string, want map[string]string) {
		for k, v := range want {
			if _, ok := (*have)[k]; ok {
				continue
			}
			if *have == nil {
				*have = map[string]string{}
			}
			(*have)[k] = v
			changed = true
		}
	}
	merge(&m.Labels, wanted.Labels)
	merge(&m.Annotations, wanted.Annotations)
	return changed
}
