package apiserver

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	genericapiserver "k8s.io/apiserver/pkg/server"
	clientset "k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/core/ipam"
)

// serviceCIDRPolicy has ServiceCIDRs claim their ranges, and the pools follow at once
// what this server writes; other servers' mirrors see it.
func serviceCIDRPolicy(pools *ipam.Pools, mirror *claims.Mirror) claims.Policy {
	list := func(obj runtime.Object) []ipam.Claim { return ipam.ServiceCIDRClaims(obj.(*networkingv1.ServiceCIDR)) }
	return claims.Policy{
		Claims: list,
		Assign: func(obj, old runtime.Object) (claims.Assignment, error) {
			a := rangeAssignment{name: obj.(*networkingv1.ServiceCIDR).Name}
			if old == nil || !slices.Equal(list(obj), list(old)) {
				a.mirror = mirror
			}
			return a, nil
		},
		Free: pools.Free,
	}
}

// rangeAssignment chooses nothing: a ServiceCIDR says what it wants.
type rangeAssignment struct {
	name   string
	mirror *claims.Mirror // nil: no range comes or goes
}

// Conflict can come only from a claim that an earlier object of this name left.
func (a rangeAssignment) Conflict(key string) error {
	return apierrors.NewInternalError(fmt.Errorf("the claim %s of an earlier ServiceCIDR %s is still there; the next check of claims removes it", key, a.name))
}

func (a rangeAssignment) Requires() []string { return nil }
func (a rangeAssignment) Release()           {}

func (a rangeAssignment) Commit() {
	if a.mirror == nil {
		return
	}
	// The write is done, whatever becomes of the request. A failure leaves it to the
	// mirror's watch.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = a.mirror.Reread(ctx)
}

// ipAddressPolicy lets an IPAddress that somebody writes claim its address, and guards
// those that mirror a Service's claim.
func ipAddressPolicy(services serviceReader, pools *ipam.Pools) claims.Policy {
	return claims.Policy{
		Claims: func(obj runtime.Object) []ipam.Claim {
			return ipam.IPAddressClaims(obj.(*networkingv1.IPAddress))
		},
		Assign: func(obj, _ runtime.Object) (claims.Assignment, error) {
			return ipAddressAssignment{obj.(*networkingv1.IPAddress)}, nil
		},
		Free: pools.Free,
		Guard: func(ctx context.Context, obj, old runtime.Object) error {
			changed, _ := obj.(*networkingv1.IPAddress)
			return guardMirror(ctx, services, changed, old.(*networkingv1.IPAddress))
		},
	}
}

type ipAddressAssignment struct{ address *networkingv1.IPAddress }

func (a ipAddressAssignment) Requires() []string { return nil }
func (a ipAddressAssignment) Release()           {}
func (a ipAddressAssignment) Commit()            {}

// Conflict is no AlreadyExists, though there may be an IPAddress of this name too: the
// holder may be a Service or a guest.
func (a ipAddressAssignment) Conflict(string) error {
	return apierrors.NewInvalid(networkingv1.SchemeGroupVersion.WithKind("IPAddress").GroupKind(), a.address.Name,
		field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), a.address.Name, ipam.ErrAddressAllocated.Error())})
}

// guardMirror refuses to delete or change what mirrors a Service's address while the
// Service has it: it would say that the address is free, or another's, which isn't so.
// obj is nil for a deletion.
func guardMirror(ctx context.Context, services serviceReader, obj, old *networkingv1.IPAddress) error {
	if !ipam.IsMirror(old) || obj != nil && obj.DeletionTimestamp == nil && ipam.SameMirror(obj, old) {
		return nil
	}
	ref := old.Spec.ParentRef
	svc, err := services(ctx, ref.Namespace, ref.Name)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	claim := ipam.AddressClaim(old.Name, "")
	if svc == nil || !slices.ContainsFunc(ipam.ServiceClaims(svc), func(c ipam.Claim) bool { return c.Key == claim.Key }) {
		return nil
	}
	if addr, err := netip.ParseAddr(old.Name); err == nil && obj != nil && ipam.SameMirror(obj, ipam.Mirror(svc, addr)) {
		return nil // it becomes what it should be
	}
	return apierrors.NewForbidden(networkingv1.Resource("ipaddresses"), old.Name,
		fmt.Errorf("it shows the address of Service %s/%s, which has it still; delete that Service or give it another address", ref.Namespace, ref.Name))
}

// serviceReader reads a Service as it is stored now, nil when there is none.
type serviceReader func(ctx context.Context, namespace, name string) (*corev1.Service, error)

// storedServices reads past the watch cache, which may be behind.
func storedServices(c *kubernetes.Client, folder string, codec runtime.Codec) serviceReader {
	return func(ctx context.Context, namespace, name string) (*corev1.Service, error) {
		resp, err := c.KV.Get(ctx, etcd.Prefix+"/"+folder+"/"+namespace+"/"+name)
		if err != nil || len(resp.Kvs) == 0 {
			return nil, err
		}
		svc := &corev1.Service{}
		if err := runtime.DecodeInto(codec, resp.Kvs[0].Value, svc); err != nil {
			return nil, fmt.Errorf("read Service %s/%s: %w", namespace, name, err)
		}
		return svc, nil
	}
}

// defaultRangePoll is short, for a start waits for it.
const defaultRangePoll = 50 * time.Millisecond

// bootstrapServiceCIDR makes the default ServiceCIDR once the server answers, and holds
// its readiness back until it is there: without it no Service gets an address.
func bootstrapServiceCIDR(main *genericapiserver.GenericAPIServer, kube clientset.Interface, prefixes []netip.Prefix, log *slog.Logger) error {
	return main.AddPostStartHook("default-service-cidr", func(hook genericapiserver.PostStartHookContext) error {
		// As in bootstrapRBAC its only error is the end of the server.
		_ = wait.PollUntilContextCancel(hook, defaultRangePoll, true, func(ctx context.Context) (bool, error) {
			return ensureServiceCIDR(ctx, kube, prefixes, log) == nil, nil
		})
		return nil
	})
}

// ensureServiceCIDR makes the default ServiceCIDR, or adds the family that the flags now
// have. Else one that is there stays as it is, whatever the flags say: its addresses are
// in use.
func ensureServiceCIDR(ctx context.Context, kube clientset.Interface, prefixes []netip.Prefix, log *slog.Logger) error {
	client := kube.NetworkingV1().ServiceCIDRs()
	wanted := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: ipam.DefaultServiceCIDR}}
	for _, prefix := range prefixes {
		wanted.Spec.CIDRs = append(wanted.Spec.CIDRs, prefix.String())
	}
	is, err := client.Get(ctx, ipam.DefaultServiceCIDR, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		is, err = client.Create(ctx, wanted, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("make the ServiceCIDR %s: %w", ipam.DefaultServiceCIDR, err)
	}
	if !slices.Equal(is.Spec.CIDRs, wanted.Spec.CIDRs) {
		if len(is.Spec.CIDRs) == 1 && len(wanted.Spec.CIDRs) == 2 && is.Spec.CIDRs[0] == wanted.Spec.CIDRs[0] {
			is.Spec = wanted.Spec
			if is, err = client.Update(ctx, is, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("add a family to the ServiceCIDR %s: %w", is.Name, err)
			}
		} else {
			log.WarnContext(ctx, "Services go on drawing from the ranges that the ServiceCIDR says; start with these, or add a ServiceCIDR for others",
				"servicecidr", is.Name, "ranges", is.Spec.CIDRs, "--service-cidr", wanted.Spec.CIDRs)
		}
	}
	if is.DeletionTimestamp != nil || meta.FindStatusCondition(is.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
		return nil
	}
	meta.SetStatusCondition(&is.Status.Conditions, ipam.ReadyCondition())
	if _, err := client.UpdateStatus(ctx, is, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("set the status of the ServiceCIDR %s: %w", is.Name, err)
	}
	return nil
}
