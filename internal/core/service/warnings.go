package service

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings says what a valid Service asks for in vain, in a deprecated way, or in a
// notation that differs from the usual one. Where Kubernetes
// has a text for it, it is that one.
func Warnings(svc *corev1.Service) []string {
	var out []string
	if _, ok := svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; ok {
		out = append(out, fmt.Sprintf("annotation %s is deprecated, please use %s instead",
			corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode))
	}
	out = append(out, ignoredWarnings(svc)...)
	out = append(out, notationWarnings(svc)...)
	if deref(svc.Spec.TrafficDistribution) == corev1.ServiceTrafficDistributionPreferClose {
		out = append(out, fmt.Sprintf("spec.trafficDistribution: %q is deprecated; use %q",
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone))
	}
	return out
}

// ignoredWarnings names fields without effect on this kind of Service, and external
// IPs where they have one (DP-06).
func ignoredWarnings(svc *corev1.Service) []string {
	var out []string
	spec := &svc.Spec
	externalName := spec.Type == corev1.ServiceTypeExternalName
	switch {
	case IsHeadless(svc):
		if spec.LoadBalancerIP != "" {
			out = append(out, "spec.loadBalancerIP is ignored for headless services")
		}
		if len(spec.ExternalIPs) > 0 {
			out = append(out, "spec.externalIPs is ignored for headless services")
		}
		if spec.SessionAffinity != corev1.ServiceAffinityNone {
			out = append(out, "spec.SessionAffinity is ignored for headless services")
		}
	case externalName && len(spec.ExternalIPs) > 0:
		out = append(out, fmt.Sprintf("spec.externalIPs is ignored when spec.type is %q", corev1.ServiceTypeExternalName))
	case len(spec.ExternalIPs) > 0:
		out = append(out, "spec.externalIPs is deprecated and may no longer be implemented in some clusters")
	}
	if !externalName && spec.ExternalName != "" {
		out = append(out, fmt.Sprintf("spec.externalName is ignored when spec.type is not %q", corev1.ServiceTypeExternalName))
	}
	return out
}

// notationWarnings names addresses in another notation than RFC 5952 or with host
// bits, which make controllers apply the same object for ever.
func notationWarnings(svc *corev1.Service) []string {
	spec := field.NewPath("spec")
	var out []string
	addr := func(path *field.Path, value string) {
		if _, err := netip.ParseAddr(value); err == nil {
			out = append(out, validation.GetWarningsForIP(path, value)...)
		}
	}
	for i, ip := range svc.Spec.ClusterIPs {
		addr(spec.Child("clusterIPs").Index(i), ip)
	}
	for i, ip := range svc.Spec.ExternalIPs {
		addr(spec.Child("externalIPs").Index(i), ip)
	}
	addr(spec.Child("loadBalancerIP"), svc.Spec.LoadBalancerIP)
	for i, r := range svc.Spec.LoadBalancerSourceRanges {
		if r = strings.TrimSpace(r); validPrefix(r) {
			out = append(out, validation.GetWarningsForCIDR(spec.Child("loadBalancerSourceRanges").Index(i), r)...)
		}
	}
	return out
}

func validPrefix(s string) bool {
	_, err := netip.ParsePrefix(s)
	return err == nil
}
