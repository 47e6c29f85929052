package apiserver

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
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
)

// This file and its neighbours kinds_workload.go and kinds_volume.go hold what Portico
// stores for others: an unmodified kubelet, kube-scheduler or kube-controller-manager
// lists and watches these resources, and waits for ever where one isn't served. Nothing
// of ours acts on them. So each has its names, its defaults (their readers follow
// pointers that a default fills), and the checks without which a reader would fail.

// scope of a kind.
const (
	inNamespace = true
	inCluster   = false
)

// objectOf is the pointer to a type of the API.
type objectOf[T any] interface {
	*T
	runtime.Object
}

// stored is a kind with the rules that hold for every object, and no others.
func stored[T, L any, PT objectOf[T], PL objectOf[L]](gv schema.GroupVersion, plural, singular string, namespaced bool, short ...string) kind[PT] {
	return kind[PT]{
		gv: gv, plural: plural, singular: singular, namespaced: namespaced, short: short,
		newObject: func() PT { return new(T) },
		newList:   func() runtime.Object { return PL(new(L)) },
		rules: rules[PT]{
			validate:       func(obj PT) field.ErrorList { return validateStored(obj, namespaced) },
			validateUpdate: func(obj, old PT) field.ErrorList { return validateStoredUpdate(obj, old) },
		},
	}
}

func validateStored(obj runtime.Object, namespaced bool) field.ErrorList {
	m, err := meta.Accessor(obj)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return validation.ValidateObjectMetaAccessor(m, namespaced, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
}

func validateStoredUpdate(obj, old runtime.Object) field.ErrorList {
	m, err := meta.Accessor(obj)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	was, err := meta.Accessor(old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return validation.ValidateObjectMetaAccessorUpdate(m, was, field.NewPath("metadata"))
}

// checked adds checks to a kind, of a new object and of a changed one alike.
func (k kind[T]) checked(check func(obj T) field.ErrorList) kind[T] {
	create, update := k.rules.validate, k.rules.validateUpdate
	k.rules.validate = func(obj T) field.ErrorList { return append(create(obj), check(obj)...) }
	k.rules.validateUpdate = func(obj, old T) field.ErrorList { return append(update(obj, old), check(obj)...) }
	return k
}

// fixed adds checks of what may not change.
func (k kind[T]) fixed(check func(obj, old T) field.ErrorList) kind[T] {
	update := k.rules.validateUpdate
	k.rules.validateUpdate = func(obj, old T) field.ErrorList { return append(update(obj, old), check(obj, old)...) }
	return k
}

// printed says what `kubectl get` shows between name and age.
func (k kind[T]) printed(row func(T) []any, columns ...metav1.TableColumnDefinition) kind[T] {
	k.table = table[T]{columns: columns, row: row}
	return k
}

// warned answers every create with a Warning.
func (k kind[T]) warned(text string) kind[T] {
	k.rules.warnings = func(_, old T) []string {
		if any(old) != any(*new(T)) {
			return nil
		}
		return []string{text}
	}
	return k
}

// unserved is the Warning with objects that only foreign controllers act on.
func unserved(plural, who string) string {
	return fmt.Sprintf("Portico stores %s and doesn't act on them; %s does", plural, who)
}

// addCluster serves what stock components of a cluster insist on.
func addCluster(s storages, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
	for _, build := range slices.Concat(clusterBuilds(), workloadBuilds(), volumeBuilds()) {
		if err := build(s, scheme, options); err != nil {
			return err
		}
	}
	return nil
}

// buildFunc makes the storage of one kind and collects it.
type buildFunc func(storages, *runtime.Scheme, generic.RESTOptionsGetter) error

func plain[T runtime.Object](k kind[T]) buildFunc {
	return func(s storages, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
		_, _, err := add(s, scheme, options, k)
		return err
	}
}

func clusterBuilds() []buildFunc {
	core, dra := corev1.SchemeGroupVersion, resourcev1.SchemeGroupVersion
	return []buildFunc{
		plain(limitRangeKind(core)),
		plain(stored[corev1.PodTemplate, corev1.PodTemplateList](core, "podtemplates", "podtemplate", inNamespace)),
		plain(priorityClassKind()),
		plain(runtimeClassKind()),
		plain(disruptionBudgetKind()),
		buildSigningRequests,
		plain(stored[resourcev1.DeviceClass, resourcev1.DeviceClassList](dra, "deviceclasses", "deviceclass", inCluster)),
		plain(stored[resourcev1.ResourceClaim, resourcev1.ResourceClaimList](dra, "resourceclaims", "resourceclaim", inNamespace)),
		plain(stored[resourcev1.ResourceClaimTemplate, resourcev1.ResourceClaimTemplateList](dra, "resourceclaimtemplates", "resourceclaimtemplate", inNamespace)),
		plain(resourceSliceKind()),
	}
}

func limitRangeKind(gv schema.GroupVersion) kind[*corev1.LimitRange] {
	return stored[corev1.LimitRange, corev1.LimitRangeList](gv, "limitranges", "limitrange", inNamespace, "limits").
		warned("Portico stores limit ranges and doesn't enforce them")
}

// resourceSliceKind can be listed by node and driver: kubelets and schedulers do.
func resourceSliceKind() kind[*resourcev1.ResourceSlice] {
	k := stored[resourcev1.ResourceSlice, resourcev1.ResourceSliceList](resourcev1.SchemeGroupVersion, "resourceslices", "resourceslice", inCluster)
	k.fields = resourceSliceFields
	return k
}

func priorityClassKind() kind[*schedulingv1.PriorityClass] {
	return stored[schedulingv1.PriorityClass, schedulingv1.PriorityClassList](schedulingv1.SchemeGroupVersion, "priorityclasses", "priorityclass", inCluster, "pc").
		fixed(func(p, old *schedulingv1.PriorityClass) field.ErrorList {
			return validation.ValidateImmutableField(p.Value, old.Value, field.NewPath("value"))
		}).
		printed(func(p *schedulingv1.PriorityClass) []any {
			return []any{strconv.Itoa(int(p.Value)), strconv.FormatBool(p.GlobalDefault)}
		}, column("Value", "The higher, the more important."), column("Global-Default", "Whether it is for pods that name none."))
}

func runtimeClassKind() kind[*nodev1.RuntimeClass] {
	return stored[nodev1.RuntimeClass, nodev1.RuntimeClassList](nodev1.SchemeGroupVersion, "runtimeclasses", "runtimeclass", inCluster).
		checked(func(c *nodev1.RuntimeClass) field.ErrorList {
			var errs field.ErrorList
			for _, msg := range validation.NameIsDNSLabel(c.Handler, false) {
				errs = append(errs, field.Invalid(field.NewPath("handler"), c.Handler, msg))
			}
			return errs
		}).
		fixed(func(c, old *nodev1.RuntimeClass) field.ErrorList {
			return validation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))
		}).
		printed(func(c *nodev1.RuntimeClass) []any { return []any{c.Handler} }, column("Handler", "What the runtime calls it."))
}

func disruptionBudgetKind() kind[*policyv1.PodDisruptionBudget] {
	return stored[policyv1.PodDisruptionBudget, policyv1.PodDisruptionBudgetList](policyv1.SchemeGroupVersion, "poddisruptionbudgets", "poddisruptionbudget", inNamespace, "pdb").
		checked(func(b *policyv1.PodDisruptionBudget) field.ErrorList {
			if b.Spec.MinAvailable != nil && b.Spec.MaxUnavailable != nil {
				return field.ErrorList{field.Invalid(field.NewPath("spec"), "", "minAvailable and maxUnavailable cannot be both set")}
			}
			return nil
		}).
		warned(unserved("PodDisruptionBudgets", "a kube-controller-manager")).
		printed(func(b *policyv1.PodDisruptionBudget) []any {
			least, most := "N/A", "N/A"
			if b.Spec.MinAvailable != nil {
				least = b.Spec.MinAvailable.String()
			}
			if b.Spec.MaxUnavailable != nil {
				most = b.Spec.MaxUnavailable.String()
			}
			return []any{least, most, strconv.Itoa(int(b.Status.DisruptionsAllowed))}
		}, column("Min Available", "How many must stay."), column("Max Unavailable", "How many may go."),
			column("Allowed Disruptions", "How many may go now."))
}

// images are the containers' names and images, as wide tables show them.
func images(spec *corev1.PodSpec) (names, from string) {
	var n, i []string
	for _, c := range spec.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}
