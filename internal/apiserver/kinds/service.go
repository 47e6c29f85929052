package kinds

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/client/v3/kubernetes"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/registry"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/service"
)

func serviceKind(cluster service.Cluster, pools *ipam.Pools) registry.Kind[*corev1.Service] {
	return registry.Kind[*corev1.Service]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "services", Singular: "service", Short: []string{"svc"}, All: true, Namespaced: true,
		NewObject: func() *corev1.Service { return &corev1.Service{} },
		NewList:   func() runtime.Object { return &corev1.ServiceList{} },
		Fields: func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
		Rules: registry.Rules[*corev1.Service]{
			PrepareCreate: cluster.PrepareForCreate,
			PrepareUpdate: cluster.PrepareForUpdate,
			Validate: func(svc *corev1.Service) field.ErrorList {
				return append(cluster.Validate(svc), pools.Validate(svc, nil)...)
			},
			ValidateUpdate: func(svc, old *corev1.Service) field.ErrorList {
				return append(cluster.ValidateUpdate(svc, old), pools.Validate(svc, old)...)
			},
			ValidateStatus: service.ValidateStatusUpdate,
			Warnings:       func(svc, _ *corev1.Service) []string { return service.Warnings(svc) },
		},
		Table: registry.Table[*corev1.Service]{
			Columns: []metav1.TableColumnDefinition{
				registry.Column("Type", "ClusterIP, NodePort, LoadBalancer or ExternalName."), registry.Column("Cluster-IP", "Address inside the cluster."),
				registry.Column("External-IP", "Addresses for clients outside."), registry.Column("Port(s)", "Port, node port and protocol."),
				registry.Wide("Selector", "Labels of the pods behind it."),
			},
			Row: serviceRow,
		},
	}
}

func serviceRow(s *corev1.Service) []any {
	return []any{
		string(s.Spec.Type), none(s.Spec.ClusterIP), externalAddresses(s), ports(s.Spec.Ports),
		labels.FormatLabels(s.Spec.Selector),
	}
}

func externalAddresses(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var list []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				list = append(list, in.IP)
			} else if in.Hostname != "" {
				list = append(list, in.Hostname)
			}
		}
		list = append(list, s.Spec.ExternalIPs...)
		if len(list) == 0 {
			return "<pending>"
		}
		return strings.Join(list, ",")
	}
	return none(strings.Join(s.Spec.ExternalIPs, ","))
}

// ServicePolicy says what Services claim, and assigns from pools.
func ServicePolicy(pools *ipam.Pools, mirror *claims.Mirror) claims.Policy {
	return claims.Policy{
		Claims: func(obj runtime.Object) []ipam.Claim {
			return ipam.AllServiceClaims(obj.(*corev1.Service))
		},
		Assign: func(obj, old runtime.Object) (claims.Assignment, error) {
			svc := obj.(*corev1.Service)
			was, _ := old.(*corev1.Service)
			a, err := pools.Assign(svc, was)
			if err != nil {
				return nil, serviceError(svc, err)
			}
			return serviceAssignment{a, svc}, nil
		},
		Free:    pools.Free,
		Refresh: mirror.Refresh,
	}
}

type serviceAssignment struct {
	*ipam.Assignment
	svc *corev1.Service
}

func (a serviceAssignment) Conflict(key string) error {
	return serviceError(a.svc, a.Assignment.Conflict(key))
}

// serviceError answers 422 where the client asked for what can't be had, and 500 as
// upstream does where nothing is left.
func serviceError(svc *corev1.Service, err error) error {
	var invalid *field.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid):
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, field.ErrorList{invalid})
	}
	return &CausedError{apierrors.NewInternalError(err), err}
}

// CausedError is an answer that still tells its cause: ipam.ErrFull for one.
type CausedError struct {
	*apierrors.StatusError
	Cause error
}

func (e *CausedError) Unwrap() error { return e.Cause }

// deleteEndpoints removes the Endpoints of a Service that is gone, written by hand or
// not, as upstream does. Slices are collected by their owner.
func deleteEndpoints(endpoints *genericregistry.Store) genericregistry.AfterDeleteFunc {
	return func(obj runtime.Object, options *metav1.DeleteOptions) {
		if dryrun.IsDryRun(options.DryRun) {
			return
		}
		svc := obj.(*corev1.Service)
		// The request's context isn't handed on. A failure leaves Endpoints without a
		// Service, which nobody is sent to.
		ctx := request.WithNamespace(context.Background(), svc.Namespace)
		_, _, _ = endpoints.Delete(ctx, svc.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{})
	}
}

// ServiceStorage lets a dry run show the addresses that a write would get. The store
// assigns real writes itself; a dry run never reaches it, and keeps nothing.
type ServiceStorage struct {
	*registry.Storage
	pools  *ipam.Pools
	claims *kubernetes.Client
}

func (s *ServiceStorage) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	out, err := s.Storage.Create(ctx, obj, validate, options)
	if err != nil || !dryrun.IsDryRun(options.DryRun) {
		return out, err
	}
	return out, s.preview(ctx, out)
}

func (s *ServiceStorage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions,
) (runtime.Object, bool, error) {
	out, created, err := s.Storage.Update(ctx, name, info, create, update, force, options)
	if err != nil || !dryrun.IsDryRun(options.DryRun) {
		return out, created, err
	}
	return out, created, s.preview(ctx, out)
}

// preview assigns what a write would, and says which choice of the client's is taken.
func (s *ServiceStorage) preview(ctx context.Context, obj runtime.Object) error {
	svc := obj.(*corev1.Service)
	taken, err := claims.Taken(ctx, s.claims, ipam.AllServiceClaims(svc))
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if taken != "" {
		return serviceError(svc, ipam.ConflictError(svc, taken))
	}
	a, err := s.pools.Assign(svc, nil)
	if err != nil {
		return serviceError(svc, err)
	}
	a.Release()
	return nil
}
