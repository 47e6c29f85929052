package addresses

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/pager"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/machine"
)

// checkAlways compares the claims with the objects now and then, until ctx ends.
func (c *controller) checkAlways(ctx context.Context) {
	ticker := c.Clock.NewTicker(c.Period)
	defer ticker.Stop()
	for {
		if err := c.check(ctx); err != nil && ctx.Err() == nil {
			c.Log.WarnContext(ctx, "the claims on addresses and ports could not be checked", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C():
		}
	}
}

// check reads the claims first and the objects after, as ipam.Check wants it, both
// linearizably. A finding that can be repaired counts when the repair was done: else
// things have changed since they were read, and nothing was wrong.
func (c *controller) check(ctx context.Context) error {
	held, err := c.Claims.List(ctx)
	if err != nil {
		return err
	}
	holders, err := c.holders(ctx)
	if err != nil {
		return err
	}
	findings := ipam.Check(held, holders)
	later, err := c.Claims.List(ctx)
	if err != nil {
		return err
	}
	still := make(map[string]int64, len(later))
	for _, h := range later {
		still[h.Key] = h.Revision
	}
	was := make(map[string]int64, len(held))
	for _, h := range held {
		was[h.Key] = h.Revision
	}
	for _, f := range findings {
		if f.Repair == nil {
			if still[f.Key] == was[f.Key] { // else it went over while the objects were read
				c.tell(ctx, f)
			}
			continue
		}
		done, err := c.Claims.Repair(ctx, *f.Repair)
		if err != nil {
			return err
		}
		if done {
			c.tell(ctx, f)
		}
	}
	return c.checkRanges(ctx, holders)
}

// checkRanges tells of Services outside all ranges. One that went, or took another
// address, before the ranges were read had let its own range go: so who is suspected is
// read again, and counts when it is as it was.
func (c *controller) checkRanges(ctx context.Context, holders []*ipam.Holder) error {
	cidrs, err := c.Client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	var ranges []netip.Prefix
	for i := range cidrs.Items {
		ranges = append(ranges, ipam.Prefixes(&cidrs.Items[i])...)
	}
	for _, h := range holders {
		if h.Resource != services {
			continue
		}
		findings := ipam.OutOfRange(h, ranges, c.ports)
		if len(findings) == 0 {
			continue
		}
		now, err := c.Client.CoreV1().Services(h.Namespace).Get(ctx, h.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("look at Service %s/%s again: %w", h.Namespace, h.Name, err)
		}
		if err != nil || now.ResourceVersion != h.ResourceVersion {
			continue
		}
		for _, f := range findings {
			c.tell(ctx, f)
		}
	}
	return nil
}

var (
	services  = corev1.Resource("services")
	cidrs     = networkingv1.Resource("servicecidrs")
	addresses = networkingv1.Resource("ipaddresses")
	machines  = schema.GroupResource{Group: kubevirtv1.GroupVersion.Group, Resource: "virtualmachines"}
	instances = schema.GroupResource{Group: kubevirtv1.GroupVersion.Group, Resource: "virtualmachineinstances"}

	// kinds are for the references of events.
	kinds = map[schema.GroupResource]schema.GroupVersionKind{
		services:  corev1.SchemeGroupVersion.WithKind("Service"),
		cidrs:     networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"),
		addresses: networkingv1.SchemeGroupVersion.WithKind("IPAddress"),
		machines:  kubevirtv1.VirtualMachineGroupVersionKind,
		instances: kubevirtv1.VirtualMachineInstanceGroupVersionKind,
	}
)

// tell says what was found, to the log and, where somebody is concerned, in an event.
func (c *controller) tell(ctx context.Context, f ipam.Finding) {
	if f.Object == nil {
		c.Log.WarnContext(ctx, f.Message, "reason", f.Reason, "claim", f.Key)
		return
	}
	c.Log.WarnContext(ctx, f.Message, "reason", f.Reason, "claim", f.Key, "object", f.Object.String())
	if c.Recorder == nil {
		return
	}
	apiVersion, kind := kinds[f.Object.Resource].ToAPIVersionAndKind()
	ref := &corev1.ObjectReference{
		APIVersion: apiVersion, Kind: kind,
		Namespace: f.Object.Namespace, Name: f.Object.Name, UID: f.Object.UID, ResourceVersion: f.Object.ResourceVersion,
	}
	c.Recorder.Event(ref, corev1.EventTypeWarning, f.Reason, f.Message)
}

// holders reads all objects that can have claims, page by page, and keeps of each the
// little that matters.
func (c *controller) holders(ctx context.Context) ([]*ipam.Holder, error) {
	networking := c.Client.NetworkingV1()
	var out []*ipam.Holder
	for _, kind := range []struct {
		resource schema.GroupResource
		list     func(context.Context, metav1.ListOptions) (runtime.Object, error)
		claims   func(runtime.Object) []ipam.Claim
	}{
		{
			services,
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return c.Client.CoreV1().Services("").List(ctx, o)
			},
			func(obj runtime.Object) []ipam.Claim { return ipam.AllServiceClaims(obj.(*corev1.Service)) },
		},
		{
			addresses,
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return networking.IPAddresses().List(ctx, o)
			},
			func(obj runtime.Object) []ipam.Claim { return ipam.IPAddressClaims(obj.(*networkingv1.IPAddress)) },
		},
		{
			cidrs,
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return networking.ServiceCIDRs().List(ctx, o)
			},
			func(obj runtime.Object) []ipam.Claim { return ipam.ServiceCIDRClaims(obj.(*networkingv1.ServiceCIDR)) },
		},
		{
			machines,
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return c.Machines.VirtualMachines("").List(ctx, o)
			},
			func(obj runtime.Object) []ipam.Claim { return machine.Claims(obj.(metav1.Object)) },
		},
		{
			instances,
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return c.Machines.VirtualMachineInstances("").List(ctx, o)
			},
			func(obj runtime.Object) []ipam.Claim { return machine.Claims(obj.(metav1.Object)) },
		},
	} {
		err := pager.New(kind.list).EachListItem(ctx, metav1.ListOptions{}, func(obj runtime.Object) error {
			m := obj.(metav1.Object)
			out = append(out, &ipam.Holder{
				Resource: kind.resource, Namespace: m.GetNamespace(), Name: m.GetName(), UID: m.GetUID(),
				ResourceVersion: m.GetResourceVersion(), Created: m.GetCreationTimestamp().Time, Claims: kind.claims(obj),
			})
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.resource, err)
		}
	}
	return out, nil
}
