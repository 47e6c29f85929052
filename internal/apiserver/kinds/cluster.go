package kinds

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"

	"portico.dev/portico/internal/apiserver/registry"
)

// This file and its neighbours workload.go and volume.go hold what Portico
// stores for others: an unmodified kubelet, kube-scheduler or kube-controller-manager
// lists and watches these resources, and waits for ever where one isn't served. Nothing
// of ours acts on them. So each has its names, its defaults (their readers follow
// pointers that a default fills), and the checks without which a reader would fail.

// unserved is the Warning with objects that only foreign controllers act on.
func unserved(plural, who string) string {
	return fmt.Sprintf("Portico stores %s and doesn't act on them; %s does", plural, who)
}

// addCluster serves what stock components of a cluster insist on.
func addCluster(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
	for _, build := range slices.Concat(clusterBuilds(), workloadBuilds(), volumeBuilds()) {
		if err := build(s, scheme, options); err != nil {
			return err
		}
	}
	return nil
}

// buildFunc makes the storage of one kind and collects it.
type buildFunc func(registry.Set, *runtime.Scheme, generic.RESTOptionsGetter) error

func plain[T runtime.Object](k registry.Kind[T]) buildFunc {
	return func(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
		_, _, err := registry.Add(s, scheme, options, k)
		return err
	}
}

func clusterBuilds() []buildFunc {
	core, dra := corev1.SchemeGroupVersion, resourcev1.SchemeGroupVersion
	return []buildFunc{
		plain(limitRangeKind(core)),
		plain(registry.Stored[corev1.PodTemplate, corev1.PodTemplateList](core, "podtemplates", "podtemplate", registry.InNamespace)),
		plain(priorityClassKind()),
		plain(runtimeClassKind()),
		plain(disruptionBudgetKind()),
		buildSigningRequests,
		plain(registry.Stored[resourcev1.DeviceClass, resourcev1.DeviceClassList](dra, "deviceclasses", "deviceclass", registry.InCluster)),
		plain(registry.Stored[resourcev1.ResourceClaim, resourcev1.ResourceClaimList](dra, "resourceclaims", "resourceclaim", registry.InNamespace)),
		plain(registry.Stored[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList](dra, "resourceclaimtemplates", "resourceclaimtemplate", registry.InNamespace)),
		plain(resourceSliceKind()),
	}
}

func limitRangeKind(gv schema.GroupVersion) registry.Kind[*corev1.LimitRange] {
	return registry.Stored[corev1.LimitRange, corev1.LimitRangeList](gv, "limitranges", "limitrange", registry.InNamespace, "limits").
		Warned("Portico stores limit ranges and doesn't enforce them")
}

// resourceSliceKind can be listed by node and driver: kubelets and schedulers do.
func resourceSliceKind() registry.Kind[*resourcev1.ResourceSlice] {
	k := registry.Stored[resourcev1.ResourceSlice, resourcev1.ResourceSliceList](resourcev1.SchemeGroupVersion, "resourceslices", "resourceslice", registry.InCluster)
	k.Fields = resourceSliceFields
	return k
}

func priorityClassKind() registry.Kind[*schedulingv1.PriorityClass] {
	return registry.Stored[schedulingv1.PriorityClass, schedulingv1.PriorityClassList](schedulingv1.SchemeGroupVersion, "priorityclasses", "priorityclass", registry.InCluster, "pc").
		Fixed(func(p, old *schedulingv1.PriorityClass) field.ErrorList {
			return validation.ValidateImmutableField(p.Value, old.Value, field.NewPath("value"))
		}).
		Printed(func(p *schedulingv1.PriorityClass) []any {
			return []any{strconv.Itoa(int(p.Value)), strconv.FormatBool(p.GlobalDefault)}
		}, registry.Column("Value", "The higher, the more important."), registry.Column("Global-Default", "Whether it is for pods that name none."))
}

func runtimeClassKind() registry.Kind[*nodev1.RuntimeClass] {
	return registry.Stored[nodev1.RuntimeClass, nodev1.RuntimeClassList](nodev1.SchemeGroupVersion, "runtimeclasses", "runtimeclass", registry.InCluster).
		Checked(func(c *nodev1.RuntimeClass) field.ErrorList {
			var errs field.ErrorList
			for _, msg := range validation.NameIsDNSLabel(c.Handler, false) {
				errs = append(errs, field.Invalid(field.NewPath("handler"), c.Handler, msg))
			}
			return errs
		}).
		Fixed(func(c, old *nodev1.RuntimeClass) field.ErrorList {
			return validation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))
		}).
		Printed(func(c *nodev1.RuntimeClass) []any { return []any{c.Handler} }, registry.Column("Handler", "What the runtime calls it."))
}

func disruptionBudgetKind() registry.Kind[*policyv1.PodDisruptionBudget] {
	return registry.Stored[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList](policyv1.SchemeGroupVersion, "poddisruptionbudgets", "poddisruptionbudget", registry.InNamespace, "pdb").
		Checked(func(b *policyv1.PodDisruptionBudget) field.ErrorList {
			if b.Spec.MinAvailable != nil && b.Spec.MaxUnavailable != nil {
				return field.ErrorList{field.Invalid(field.NewPath("spec"), "", "minAvailable and maxUnavailable cannot be both set")}
			}
			return nil
		}).
		Warned(unserved("PodDisruptionBudgets", "a kube-controller-manager")).
		Printed(func(b *policyv1.PodDisruptionBudget) []any {
			least, most := "N/A", "N/A"
			if b.Spec.MinAvailable != nil {
				least = b.Spec.MinAvailable.String()
			}
			if b.Spec.MaxUnavailable != nil {
				most = b.Spec.MaxUnavailable.String()
			}
			return []any{least, most, strconv.Itoa(int(b.Status.DisruptionsAllowed))}
		}, registry.Column("Min Available", "How many must stay."), registry.Column("Max Unavailable", "How many may go."),
			registry.Column("Allowed Disruptions", "How many may go now."))
}

// images are the containers' names and images, as wide tables show them.
func images(spec *corev1.PodSpec) (names, from string) {
	var n, i []string
	for _, c := range spec.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}
