package quota

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate checks the spec of a ResourceQuota.
func Validate(spec *corev1.ResourceQuotaSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "hard")
	for _, name := range slices.Sorted(maps.Keys(spec.Hard)) {
		at, quantity := path.Key(string(name)), spec.Hard[name]
		for _, msg := range validation.IsQualifiedName(string(name)) {
			errs = append(errs, field.Invalid(at, string(name), msg))
		}
		if !known(name) {
			errs = append(errs, field.Invalid(at, string(name), "must be a standard resource for quota"))
		}
		if quantity.Sign() < 0 {
			errs = append(errs, field.Invalid(at, quantity.String(), "must be greater than or equal to 0"))
		}
		if whole(name) && quantity.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(at, quantity.String(), "must be an integer"))
		}
	}
	return errs
}

// amounts are the names of Kubernetes' quotas that aren't numbers of objects and that
// belong to no group.
var amounts = []corev1.ResourceName{
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceRequestsStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
}

// known says whether a name is one that Kubernetes' quotas have: those with a group may
// be anybody's (devices, storage classes).
func known(name corev1.ResourceName) bool {
	if _, ok := short[name]; ok || strings.Contains(string(name), "/") || slices.Contains(amounts, name) {
		return true
	}
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) || strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix)
}

// whole says whether there are no halves of a resource: of objects, and of devices.
func whole(name corev1.ResourceName) bool {
	if _, ok := short[name]; ok {
		return true
	}
	group, _, ok := strings.Cut(string(name), "/")
	return ok && !strings.HasSuffix(group, "kubernetes.io") && !strings.HasPrefix(group, corev1.DefaultResourceRequestsPrefix)
}

// Warnings say what of a spec isn't enforced.
func Warnings(spec *corev1.ResourceQuotaSpec) []string {
	var names []string
	for name := range spec.Hard {
		if _, ok := Counted(name); !ok {
			names = append(names, string(name))
		}
	}
	slices.Sort(names)
	var out []string
	for _, name := range names {
		out = append(out, fmt.Sprintf("spec.hard[%s]: Portico counts objects only, so nothing limits it", name))
	}
	if len(spec.Scopes) > 0 || spec.ScopeSelector != nil {
		out = append(out, "a quota with scopes matches no object: Portico doesn't tell pods apart by scope")
	}
	return out
}

// Scoped says whether a quota is for some pods only.
func Scoped(spec *corev1.ResourceQuotaSpec) bool {
	return len(spec.Scopes) > 0 || spec.ScopeSelector != nil
}
