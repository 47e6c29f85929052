package service

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Cluster is what the rules must know of the cluster.
type Cluster struct {
	// Families are those that Services can have, the primary first; one or two.
	Families []corev1.IPFamily
}

// Has reports whether Services can have addresses of the family.
func (c Cluster) Has(family corev1.IPFamily) bool {
	return slices.Contains(c.Families, family)
}

func (c Cluster) dualStack() bool { return len(c.Families) > 1 }

// TakesClusterIPs reports whether the Service's type has the fields clusterIPs,
// ipFamilies and ipFamilyPolicy; a headless Service has them too.
func TakesClusterIPs(svc *corev1.Service) bool {
	return svc.Spec.Type != corev1.ServiceTypeExternalName
}

// IsHeadless reports whether the Service asks for no virtual address.
func IsHeadless(svc *corev1.Service) bool {
	return len(svc.Spec.ClusterIPs) == 1 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// TakesNodePorts reports whether ports of the Service may have node ports.
func TakesNodePorts(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// NeedsNodePorts reports whether every port of the Service must have a node port.
func NeedsNodePorts(svc *corev1.Service) bool {
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		allocate := svc.Spec.AllocateLoadBalancerNodePorts
		return allocate == nil || *allocate
	}
	return false
}

// NeedsHealthCheckNodePort reports whether the Service must have a
// healthCheckNodePort: a load balancer asks each node whether it has endpoints.
func NeedsHealthCheckNodePort(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// externallyAccessible reports whether externalTrafficPolicy means anything.
func externallyAccessible(svc *corev1.Service) bool {
	return TakesNodePorts(svc) ||
		svc.Spec.Type == corev1.ServiceTypeClusterIP && len(svc.Spec.ExternalIPs) > 0
}

func isLoadBalancer(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// policy gives ipFamilyPolicy, "" when unset.
func policy(svc *corev1.Service) corev1.IPFamilyPolicy { return deref(svc.Spec.IPFamilyPolicy) }

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// samePtr reports whether both are unset or both hold the same value.
func samePtr[T comparable](a, b *T) bool {
	return (a == nil) == (b == nil) && deref(a) == deref(b)
}
