package kinds

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/apiserver/registry"
	"portico.dev/portico/internal/core/quota"
)

// quotaKind is limits on what a namespace may hold. Their use is counted by admission,
// which charges, and by the quota controller, which refunds.
func quotaKind() registry.Kind[*corev1.ResourceQuota] {
	k := registry.Stored[corev1.ResourceQuota, corev1.ResourceQuotaList](corev1.SchemeGroupVersion, "resourcequotas", "resourcequota", registry.InNamespace, "quota").
		Checked(func(q *corev1.ResourceQuota) field.ErrorList { return quota.Validate(&q.Spec) }).
		Fixed(func(q, old *corev1.ResourceQuota) field.ErrorList {
			if equality.Semantic.DeepEqual(q.Spec.Scopes, old.Spec.Scopes) {
				return nil
			}
			return field.ErrorList{field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, "field is immutable")}
		}).
		Printed(func(q *corev1.ResourceQuota) []any {
			requests, limits := quotaCells(q)
			return []any{requests, limits}
		}, registry.Column("Request", "What is used of what may be."), registry.Column("Limit", "The same, of pods' limits."))
	k.Rules.Warnings = func(q, old *corev1.ResourceQuota) []string {
		if old != nil && equality.Semantic.DeepEqual(q.Spec, old.Spec) {
			return nil
		}
		return quota.Warnings(&q.Spec)
	}
	return k
}

func quotaCells(q *corev1.ResourceQuota) (requests, limits string) {
	var r, l []string
	for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
		used, hard := q.Status.Used[name], q.Status.Hard[name]
		text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(string(name), "limits.") {
			l = append(l, text)
		} else {
			r = append(r, text)
		}
	}
	return strings.Join(r, ", "), strings.Join(l, ", ")
}
