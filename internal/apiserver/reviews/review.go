package reviews

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// review is a kind that is answered and not stored.
type review[T runtime.Object] struct {
	singular   string
	namespaced bool
	empty      func() T
	check      func(T) error // before anything is looked up
	answer     func(ctx context.Context, review T) error
}

var (
	_ rest.Creater              = (*review[runtime.Object])(nil)
	_ rest.Scoper               = (*review[runtime.Object])(nil)
	_ rest.SingularNameProvider = (*review[runtime.Object])(nil)
)

func (r *review[T]) New() runtime.Object     { return r.empty() }
func (r *review[T]) Destroy()                {}
func (r *review[T]) NamespaceScoped() bool   { return r.namespaced }
func (r *review[T]) GetSingularName() string { return r.singular }

// Create fills in the status of what was sent.
func (r *review[T]) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	typed, ok := obj.(T)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("a %s is wanted, not a %T", r.singular, obj))
	}
	if r.check != nil {
		if err := r.check(typed); err != nil {
			return nil, err
		}
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := r.answer(ctx, typed); err != nil {
		return nil, err
	}
	return typed, nil
}
