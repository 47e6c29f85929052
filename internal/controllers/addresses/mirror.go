package addresses

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/core/ipam"
)

// syncMirror makes the IPAddress of an address what the Service that has it says. One
// that isn't a mirror is left alone.
func (c *controller) syncMirror(ctx context.Context, addr netip.Addr) error {
	svc, err := c.holder(addr)
	if err != nil {
		return err
	}
	is, err := c.addresses.Get(addr.String())
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if is != nil && !ipam.IsMirror(is) {
		return nil // somebody's own, who then has the claim
	}
	if svc == nil && is == nil {
		return nil
	}
	client := c.Client.NetworkingV1().IPAddresses()
	if svc == nil {
		return c.deleteMirror(ctx, is)
	}
	wanted := ipam.Mirror(svc, addr)
	switch {
	case is == nil:
		_, err = client.Create(ctx, wanted, metav1.CreateOptions{})
	case ipam.SameMirror(is, wanted):
		return nil
	case is.Spec.ParentRef.Namespace != svc.Namespace || is.Spec.ParentRef.Name != svc.Name:
		// The reference can't be changed. The event of the deletion makes it anew.
		return c.deleteMirror(ctx, is)
	default:
		mended := is.DeepCopy()
		mended.Labels[networkingv1.LabelIPAddressFamily] = wanted.Labels[networkingv1.LabelIPAddressFamily]
		mended.Spec = wanted.Spec
		_, err = client.Update(ctx, mended, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("mirror the address %s of Service %s/%s: %w", addr, svc.Namespace, svc.Name, err)
	}
	return nil
}

// deleteMirror removes the version that was seen. The API refuses it while the Service
// that it names has the address: then the caches are behind.
func (c *controller) deleteMirror(ctx context.Context, is *networkingv1.IPAddress) error {
	seen := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &is.UID, ResourceVersion: &is.ResourceVersion}}
	if err := c.Client.NetworkingV1().IPAddresses().Delete(ctx, is.Name, seen); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove IPAddress %s: %w", is.Name, err)
	}
	return nil
}

// holder is the Service that has the address: the oldest, should there be several by
// mistake, of which the check tells.
func (c *controller) holder(addr netip.Addr) (*corev1.Service, error) {
	objs, err := c.services.ByIndex(byAddress, caches.Bucket(addr.String()))
	if err != nil {
		return nil, err
	}
	objs = slices.DeleteFunc(objs, func(obj any) bool { return !slices.Contains(addressesOf(obj), addr) })
	if len(objs) == 0 {
		return nil, nil
	}
	oldest := slices.MinFunc(objs, func(a, b any) int {
		return a.(*corev1.Service).CreationTimestamp.Compare(b.(*corev1.Service).CreationTimestamp.Time)
	})
	return oldest.(*corev1.Service), nil
}
