package system

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	leaseLabel = "apiserver.kubernetes.io/identity" // upstream's label of such leases
	leaseValue = "portico-apiserver"
	// endpointsAnnotation lists the addresses where guests reach this API server.
	endpointsAnnotation = "portico.dev/endpoints"

	leaseDuration = 40 * time.Second
	leaseRenewal  = 10 * time.Second // three may fail before the lease ends
)

// Announce keeps the lease that says: this API server lives, on node, and guests
// reach it at addrs. It gives the lease up when ctx ends. With no address the server
// lives all the same but stands behind no Service.
func Announce(ctx context.Context, kube kubernetes.Interface, node string, addrs []netip.AddrPort, log *slog.Logger) error {
	a := announcer{kube: kube, node: node, addrs: addrs, name: "portico-apiserver-" + node}
	if err := a.renew(ctx); err != nil {
		return err
	}
	ticker := time.NewTicker(leaseRenewal)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			a.release(context.WithoutCancel(ctx), log)
			return nil
		case <-ticker.C:
			if err := a.renew(ctx); err != nil && ctx.Err() == nil {
				log.Warn("This API server's lease was not renewed", "error", err)
			}
		}
	}
}

type announcer struct {
	kube  kubernetes.Interface
	node  string
	name  string
	addrs []netip.AddrPort
}

func (a *announcer) renew(ctx context.Context) error {
	leases := a.kube.CoordinationV1().Leases(metav1.NamespaceSystem)
	lease, err := leases.Get(ctx, a.name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if missing {
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: a.name, Namespace: metav1.NamespaceSystem}}
	} else if err != nil {
		return fmt.Errorf("read the lease of this API server: %w", err)
	}
	seconds, now := int32(leaseDuration.Seconds()), metav1.NowMicro()
	lease.Labels = map[string]string{leaseLabel: leaseValue}
	lease.Annotations = map[string]string{endpointsAnnotation: joinAddresses(a.addrs)}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &a.node, &seconds, &now
	if missing {
		_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
	} else {
		_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("renew the lease of this API server: %w", err)
	}
	return nil
}

// release takes this server from the Service at once, not when the lease runs out.
func (a *announcer) release(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := a.kube.CoordinationV1().Leases(metav1.NamespaceSystem).Delete(ctx, a.name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		log.Warn("This API server's lease was not given up; it ends by itself", "after", leaseDuration, "error", err)
	}
}

func joinAddresses(addrs []netip.AddrPort) string {
	parts := make([]string, len(addrs))
	for i, a := range addrs {
		parts[i] = a.String()
	}
	return strings.Join(parts, ",")
}

// living gives the addresses of a lease that hasn't run out.
func living(lease *coordinationv1.Lease, now time.Time) []netip.AddrPort {
	if lease.Spec.RenewTime == nil || now.Sub(lease.Spec.RenewTime.Time) > leaseDuration {
		return nil
	}
	var out []netip.AddrPort
	for _, s := range strings.Split(lease.Annotations[endpointsAnnotation], ",") {
		if a, err := netip.ParseAddrPort(s); err == nil {
			out = append(out, a)
		}
	}
	return out
}
