package registry

import (
	"context"
	"errors"
	"reflect"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/storage/names"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Rules are what is special about one kind; nil means nothing.
type Rules[T runtime.Object] struct {
	PrepareCreate  func(obj T)
	PrepareUpdate  func(obj, old T)
	Validate       func(obj T) field.ErrorList
	ValidateUpdate func(obj, old T) field.ErrorList
	ValidateStatus func(obj, old T) field.ErrorList
	Warnings       func(obj, old T) []string // old is nil on create
	CreateOnUpdate bool                      // PUT of an absent object creates it
	StatusOnCreate bool                      // a new object may bring its status
	// Graceful says how long a deletion may take; 0 removes the object at once.
	Graceful func(obj T, options *int64) int64
}

// strategy adapts rules to the library. Objects with a Status have it cleared on
// create and kept on update: only the status subresource changes it. Their
// generation counts the changes of Spec.
type strategy[T runtime.Object] struct {
	runtime.ObjectTyper
	names.NameGenerator
	gv         schema.GroupVersion
	namespaced bool
	rules      Rules[T]
}

func (s *strategy[T]) NamespaceScoped() bool                           { return s.namespaced }
func (s *strategy[T]) AllowCreateOnUpdate(_ context.Context) bool      { return s.rules.CreateOnUpdate }
func (s *strategy[T]) AllowUnconditionalUpdate(_ context.Context) bool { return true }
func (s *strategy[T]) Canonicalize(runtime.Object)                     {}

func (s *strategy[T]) PrepareForCreate(_ context.Context, obj runtime.Object) {
	if status := part(obj, "Status"); status.IsValid() && !s.rules.StatusOnCreate {
		status.SetZero()
	}
	if m, err := meta.Accessor(obj); err == nil && part(obj, "Spec").IsValid() {
		m.SetGeneration(1)
	}
	if s.rules.PrepareCreate != nil {
		s.rules.PrepareCreate(obj.(T))
	}
}

func (s *strategy[T]) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	if status := part(obj, "Status"); status.IsValid() {
		status.Set(part(old, "Status"))
	}
	if s.rules.PrepareUpdate != nil {
		s.rules.PrepareUpdate(obj.(T), old.(T))
	}
	spec := part(obj, "Spec")
	if !spec.IsValid() {
		return
	}
	oldMeta, err1 := meta.Accessor(old)
	newMeta, err2 := meta.Accessor(obj)
	if err1 != nil || err2 != nil {
		return
	}
	generation := oldMeta.GetGeneration()
	if !equality.Semantic.DeepEqual(spec.Interface(), part(old, "Spec").Interface()) {
		generation++
	}
	newMeta.SetGeneration(generation)
}

func (s *strategy[T]) Validate(_ context.Context, obj runtime.Object) field.ErrorList {
	if s.rules.Validate == nil {
		return nil
	}
	return s.rules.Validate(obj.(T))
}

func (s *strategy[T]) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	if s.rules.ValidateUpdate != nil {
		return s.rules.ValidateUpdate(obj.(T), old.(T))
	}
	return s.Validate(context.Background(), obj)
}

func (s *strategy[T]) WarningsOnCreate(_ context.Context, obj runtime.Object) []string {
	if s.rules.Warnings == nil {
		return nil
	}
	var none T
	return s.rules.Warnings(obj.(T), none)
}

func (s *strategy[T]) WarningsOnUpdate(_ context.Context, obj, old runtime.Object) []string {
	if s.rules.Warnings == nil {
		return nil
	}
	return s.rules.Warnings(obj.(T), old.(T))
}

// GetResetFields tells server-side apply which fields the main resource ignores,
// so that nobody comes to own them by applying them.
func (s *strategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(s.gv.String()): fieldpath.NewSet(fieldpath.MakePathOrDie("status")),
	}
}

// statusStrategy takes the status of a written object. As upstream, metadata of a
// built-in kind may be written along: controllers of load balancers set their finalizer
// through services/status, kubelets their labels through nodes/status. KubeVirt's kinds
// are custom resources elsewhere, whose status endpoint takes the status alone.
type statusStrategy[T runtime.Object] struct{ *strategy[T] }

func (s statusStrategy[T]) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	if spec := part(obj, "Spec"); spec.IsValid() {
		spec.Set(part(old, "Spec"))
	}
	newMeta, err1 := meta.Accessor(obj)
	oldMeta, err2 := meta.Accessor(old)
	if err1 != nil || err2 != nil {
		return
	}
	newMeta.SetGeneration(oldMeta.GetGeneration())
	newMeta.SetOwnerReferences(oldMeta.GetOwnerReferences())
	newMeta.SetDeletionTimestamp(oldMeta.GetDeletionTimestamp())
	if s.statusAlone() {
		newMeta.SetLabels(oldMeta.GetLabels())
		newMeta.SetAnnotations(oldMeta.GetAnnotations())
		newMeta.SetFinalizers(oldMeta.GetFinalizers())
	}
}

func (s statusStrategy[T]) statusAlone() bool { return s.gv.Group == kubevirtv1.GroupVersion.Group }

func (s statusStrategy[T]) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	if s.rules.ValidateStatus == nil {
		newMeta, err1 := meta.Accessor(obj)
		oldMeta, err2 := meta.Accessor(old)
		if err := errors.Join(err1, err2); err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		return validation.ValidateObjectMetaAccessorUpdate(newMeta, oldMeta, field.NewPath("metadata"))
	}
	return s.rules.ValidateStatus(obj.(T), old.(T))
}

func (s statusStrategy[T]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s statusStrategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	reset := fieldpath.NewSet(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata", "ownerReferences"))
	if s.statusAlone() {
		for _, name := range []string{"labels", "annotations", "finalizers"} {
			reset.Insert(fieldpath.MakePathOrDie("metadata", name))
		}
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.gv.String()): reset}
}

// part is obj's field of that name, or an invalid value where the kind has none.
func part(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}
