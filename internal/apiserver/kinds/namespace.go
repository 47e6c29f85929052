package kinds

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"portico.dev/portico/internal/apiserver/registry"
)

// namespaceStorage deletes in two steps: a namespace is Terminating, and refuses
// new objects, until the namespace controller has emptied it and taken the
// finalizer `kubernetes` from spec.finalizers (API-13).
//
// It has no deletecollection, as upstream: that would remove namespaces past the two
// steps, and leave their contents behind.
type namespaceStorage struct {
	namespaceVerbs
	store *registry.Storage
}

// namespaceVerbs is what a namespace has in common with other kinds.
type namespaceVerbs interface {
	rest.StorageWithReadiness
	rest.Scoper
	rest.SingularNameProvider
	rest.ShortNamesProvider
	rest.CategoriesProvider
	rest.StorageVersionProvider
	rest.ResetFieldsStrategy
	rest.Getter
	rest.Lister
	rest.Watcher
	rest.CreaterUpdater
}

func newNamespaceStorage(main *registry.Storage, status *registry.StatusStorage) *namespaceStorage {
	emptied := func(ctx context.Context, key string, obj, existing runtime.Object) bool {
		ns, ok := obj.(*corev1.Namespace)
		return ok && len(ns.Spec.Finalizers) == 0 && genericregistry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
	}
	main.ShouldDeleteDuringUpdate = emptied
	status.Store.ShouldDeleteDuringUpdate = emptied
	return &namespaceStorage{main, main}
}

// immortal are the namespaces that the system itself lives in.
var immortal = map[string]bool{metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true}

func (s *namespaceStorage) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if immortal[name] {
		return nil, false, apierrors.NewForbidden(corev1.Resource("namespaces"), name, fmt.Errorf("this namespace may not be deleted"))
	}
	obj, err := s.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if len(ns.Spec.Finalizers) == 0 {
		return s.store.Delete(ctx, name, validate, options)
	}
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	preconditions := storage.Preconditions{UID: &ns.UID}
	if options.Preconditions != nil {
		if uid := options.Preconditions.UID; uid != nil && *uid != ns.UID {
			return nil, false, apierrors.NewConflict(corev1.Resource("namespaces"), name,
				fmt.Errorf("precondition failed: UID in precondition: %v, UID in object meta: %v", *uid, ns.UID))
		}
		preconditions.ResourceVersion = options.Preconditions.ResourceVersion
	}
	if ns.DeletionTimestamp != nil {
		return ns, false, nil
	}
	key, err := s.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	out := s.New()
	err = s.store.Storage.GuaranteedUpdate(ctx, key, out, false, &preconditions,
		storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
			if err := validate(ctx, existing); err != nil {
				return nil, err
			}
			ns := existing.(*corev1.Namespace)
			if ns.DeletionTimestamp.IsZero() {
				now := metav1.Now()
				ns.DeletionTimestamp = &now
			}
			ns.Status.Phase = corev1.NamespaceTerminating
			return ns, nil
		}), len(options.DryRun) > 0, nil)
	if err != nil {
		return nil, false, err
	}
	return out, false, nil
}

// finalizeStorage serves namespaces/finalize, the only way to change spec.finalizers.
type finalizeStorage struct{ store *genericregistry.Store }

func newFinalizeStorage(main *registry.Storage) *finalizeStorage {
	store := *main.Store
	store.UpdateStrategy = finalizeStrategy{main.UpdateStrategy}
	return &finalizeStorage{&store}
}

func (s *finalizeStorage) New() runtime.Object { return s.store.New() }
func (s *finalizeStorage) Destroy()            {}

func (s *finalizeStorage) Update(ctx context.Context, name string, objInfo rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, objInfo, createValidation, updateValidation, false, options)
}

type finalizeStrategy struct{ rest.RESTUpdateStrategy }

func (finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	ns, was := obj.(*corev1.Namespace), old.(*corev1.Namespace)
	ns.Status = was.Status
}

func (finalizeStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validateMetaUpdate(&obj.(*corev1.Namespace).ObjectMeta, &old.(*corev1.Namespace).ObjectMeta)
}
