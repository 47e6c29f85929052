package kinds

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"portico.dev/portico/internal/apiserver/registry"
)

// scaleStorage serves the scale subresource: the wanted number of a workload's pods,
// in one form for all kinds, as `kubectl scale` and autoscalers expect it.
type scaleStorage[T runtime.Object] struct {
	main *registry.Storage
	of   func(T) scaled
}

var (
	_ rest.Patcher                  = (*scaleStorage[*autoscalingv1.Scale])(nil)
	_ rest.GroupVersionKindProvider = (*scaleStorage[*autoscalingv1.Scale])(nil)
)

func (s *scaleStorage[T]) New() runtime.Object { return &autoscalingv1.Scale{} }
func (s *scaleStorage[T]) Destroy()            {} // the main storage owns it

func (s *scaleStorage[T]) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (s *scaleStorage[T]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.main.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return s.scale(obj)
}

func (s *scaleStorage[T]) scale(obj runtime.Object) (*autoscalingv1.Scale, error) {
	typed, ok := obj.(T)
	if !ok {
		return nil, fmt.Errorf("scale a %s: got a %T", s.main.DefaultQualifiedResource, obj)
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	state := s.of(typed)
	selector, err := metav1.LabelSelectorAsSelector(state.selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of %s: %w", m.GetName(), err)
	}
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUID(),
			ResourceVersion: m.GetResourceVersion(), CreationTimestamp: m.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: number(*state.wanted)},
		Status: autoscalingv1.ScaleStatus{Replicas: state.present, Selector: selector.String()},
	}, nil
}

func (s *scaleStorage[T]) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc,
	validate rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	obj, _, err := s.main.Update(ctx, name, &scaleInfo[T]{UpdatedObjectInfo: info, s: s},
		func(context.Context, runtime.Object) error { return nil }, s.validating(validate), false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := s.scale(obj)
	return scale, false, err
}

// validating shows admission the Scale that was sent, not the workload behind it.
func (s *scaleStorage[T]) validating(validate rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		scale, err := s.scale(obj)
		if err != nil {
			return err
		}
		was, err := s.scale(old)
		if err != nil {
			return err
		}
		return validate(ctx, scale, was)
	}
}

// scaleInfo turns a changed Scale into the changed workload.
type scaleInfo[T runtime.Object] struct {
	rest.UpdatedObjectInfo
	s *scaleStorage[T]
}

func (i *scaleInfo[T]) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	old = old.DeepCopyObject()
	before, err := i.s.scale(old)
	if err != nil {
		return nil, err
	}
	obj, err := i.UpdatedObjectInfo.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	scale, ok := obj.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a Scale, got a %T", obj))
	}
	if scale.Spec.Replicas < 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), before.Name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0"),
		})
	}
	m, err := meta.Accessor(old)
	if err != nil {
		return nil, err
	}
	if v := scale.ResourceVersion; v != "" && v != m.GetResourceVersion() {
		m.SetResourceVersion(v) // the store answers the conflict
	}
	wanted := scale.Spec.Replicas
	*i.s.of(old.(T)).wanted = &wanted
	return old, nil
}
