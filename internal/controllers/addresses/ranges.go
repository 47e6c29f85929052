package addresses

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"portico.dev/portico/internal/core/ipam"
)

func (c *controller) wakeEnding() {
	all, _ := c.cidrs.List(labels.Everything()) // listing a cache can't fail
	for _, cidr := range all {
		if cidr.DeletionTimestamp != nil {
			c.ranges.Add(cidr.Name)
		}
	}
}

// syncRange looks after one ServiceCIDR.
func (c *controller) syncRange(ctx context.Context, name string) error {
	cidr, err := c.cidrs.Get(name)
	switch {
	case apierrors.IsNotFound(err) && name == ipam.DefaultServiceCIDR && len(c.Default) > 0:
		return c.makeDefault(ctx)
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	case cidr.DeletionTimestamp != nil:
		return c.endRange(ctx, name)
	}
	if !slices.Contains(cidr.Finalizers, ipam.ServiceCIDRFinalizer) { // somebody took it away
		mended := cidr.DeepCopy()
		mended.Finalizers = append(mended.Finalizers, ipam.ServiceCIDRFinalizer)
		if cidr, err = c.Client.NetworkingV1().ServiceCIDRs().Update(ctx, mended, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("protect ServiceCIDR %s: %w", name, err)
		}
	}
	return c.setCondition(ctx, cidr, ipam.ReadyCondition())
}

func (c *controller) makeDefault(ctx context.Context) error {
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: ipam.DefaultServiceCIDR}}
	for _, prefix := range c.Default {
		cidr.Spec.CIDRs = append(cidr.Spec.CIDRs, prefix.String())
	}
	_, err := c.Client.NetworkingV1().ServiceCIDRs().Create(ctx, cidr, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make the default ServiceCIDR: %w", err)
	}
	return nil
}

// endRange lets a deleted ServiceCIDR go when no address of it is in use that no other
// range has. Since its deletion began no server gives an address of it, so what the store
// holds now can only become less.
func (c *controller) endRange(ctx context.Context, name string) error {
	client := c.Client.NetworkingV1().ServiceCIDRs()
	all, err := client.List(ctx, metav1.ListOptions{}) // not from the cache: it may show as alive what isn't
	if err != nil {
		return fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	var ending *networkingv1.ServiceCIDR
	var others []netip.Prefix
	for i := range all.Items {
		switch cidr := &all.Items[i]; {
		case cidr.Name == name:
			ending = cidr
		case cidr.DeletionTimestamp == nil:
			others = append(others, ipam.Prefixes(cidr)...)
		}
	}
	if ending == nil || ending.DeletionTimestamp == nil || !slices.Contains(ending.Finalizers, ipam.ServiceCIDRFinalizer) {
		return nil
	}
	held, err := c.Claims.List(ctx)
	if err != nil {
		return err
	}
	if addr, ok := inUse(held, ipam.Prefixes(ending), others); ok {
		c.Log.DebugContext(ctx, "a ServiceCIDR waits for its addresses", "servicecidr", name, "address", addr)
		return c.setCondition(ctx, ending, ipam.TerminatingCondition())
	}
	ending.Finalizers = slices.DeleteFunc(ending.Finalizers, func(f string) bool { return f == ipam.ServiceCIDRFinalizer })
	if _, err := client.Update(ctx, ending, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("let ServiceCIDR %s go: %w", name, err)
	}
	return nil
}

// inUse finds a claimed address that is in one of the ranges and in none of the others.
func inUse(held []ipam.Held, ranges, others []netip.Prefix) (netip.Addr, bool) {
	for _, h := range held {
		addr, ok := h.Addr()
		contains := func(p netip.Prefix) bool { return p.Contains(addr) }
		if ok && slices.ContainsFunc(ranges, contains) && !slices.ContainsFunc(others, contains) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// setCondition writes the status where it says something else.
func (c *controller) setCondition(ctx context.Context, cidr *networkingv1.ServiceCIDR, condition metav1.Condition) error {
	if is := meta.FindStatusCondition(cidr.Status.Conditions, condition.Type); is != nil && is.Status == condition.Status && is.Reason == condition.Reason {
		return nil
	}
	cidr = cidr.DeepCopy()
	condition.LastTransitionTime = metav1.NewTime(c.Clock.Now())
	meta.SetStatusCondition(&cidr.Status.Conditions, condition)
	if _, err := c.Client.NetworkingV1().ServiceCIDRs().UpdateStatus(ctx, cidr, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("set the status of ServiceCIDR %s: %w", cidr.Name, err)
	}
	return nil
}
