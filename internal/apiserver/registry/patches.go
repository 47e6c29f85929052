package registry

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
)

// Create is the store's. A new object that has a resourceVersion already is the
// client's mistake, which the library would answer 500.
func (s *Storage) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	out, err := s.Store.Create(ctx, obj, validate, options)
	if errors.Is(err, storage.ErrResourceVersionSetOnCreate) {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return out, err
}

// Update is the store's, which PUT and every form of patch use.
func (s *Storage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	return s.Store.Update(ctx, name, clientsChange{info}, create, update, force, options)
}

// clientsChange makes the object that a client's change leads to. Where the change
// itself is at fault, such as a list that is applied as a map, some of the library's
// errors name no status and would be answered 500.
type clientsChange struct{ rest.UpdatedObjectInfo }

func (c clientsChange) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj, err := c.UpdatedObjectInfo.UpdatedObject(ctx, old)
	var status apierrors.APIStatus
	if err == nil || ctx.Err() != nil || errors.As(err, &status) {
		return obj, err
	}
	return nil, apierrors.NewBadRequest(err.Error())
}
