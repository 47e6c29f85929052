package service

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// strict refuses addresses that programs read differently: leading zeros (octal to
// some) and IPv4 in IPv6 (KEP-4858).
const strict = true

// validateClusterIPs checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy each
// by itself and against each other, without regard to the cluster.
func validateClusterIPs(svc, old *corev1.Service) field.ErrorList {
	spec := &svc.Spec
	errs := validateFamilyFields(spec)
	ips, path := spec.ClusterIPs, clusterIPsPath()

	switch {
	case spec.ClusterIP == "" && len(ips) > 0:
		errs = append(errs, field.Invalid(path, ips, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(ips) == 0:
		errs = append(errs, field.Required(path, ""))
	case len(ips) > 0 && ips[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(path, ips, "first value must match `clusterIP`"))
	}
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(path, ips, "may only hold up to 2 values"))
	}
	if addrErrs := validateClusterIPValues(ips, existingClusterIPs(old)); len(addrErrs) > 0 {
		return append(errs, addrErrs...)
	}
	if len(ips) == 0 || ips[0] == corev1.ClusterIPNone {
		return errs
	}
	if len(ips) > 1 && familyOf(ips[0]) == familyOf(ips[1]) {
		errs = append(errs, field.Invalid(path, ips, "may specify no more than one IP for each IP family"))
	}
	for i := range min(len(ips), len(spec.IPFamilies)) {
		if want := spec.IPFamilies[i]; want == otherFamily(familyOf(ips[i])) {
			errs = append(errs, field.Invalid(path.Index(i), ips[i],
				fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", want, i)))
		}
	}
	return errs
}

func validateFamilyFields(spec *corev1.ServiceSpec) field.ErrorList {
	var errs field.ErrorList
	for i, family := range spec.IPFamilies {
		if family != corev1.IPv4Protocol && family != corev1.IPv6Protocol {
			errs = append(errs, field.NotSupported(familiesPath().Index(i), family, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}))
		}
		for _, earlier := range spec.IPFamilies[:i] {
			if earlier == family {
				errs = append(errs, field.Duplicate(familiesPath().Index(i), family))
				break
			}
		}
	}
	if p := spec.IPFamilyPolicy; p != nil {
		switch *p {
		case corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack:
		default:
			errs = append(errs, field.NotSupported(policyPath(), *p, []corev1.IPFamilyPolicy{
				corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack,
			}))
		}
	}
	return errs
}

func validateClusterIPValues(ips, existing []string) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range ips {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(ips) > 1 {
				errs = append(errs, field.Invalid(clusterIPsPath(), ips, "'None' must be the first and only value"))
			}
			continue
		}
		errs = append(errs, validation.IsValidIPForLegacyField(clusterIPsPath().Index(i), ip, strict, existing)...)
	}
	return errs
}

func existingClusterIPs(old *corev1.Service) []string {
	if old == nil {
		return nil
	}
	return old.Spec.ClusterIPs
}

func validateExternalIPs(svc, old *corev1.Service) field.ErrorList {
	var existing []string
	if old != nil {
		existing = old.Spec.ExternalIPs
	}
	var errs field.ErrorList
	for i, ip := range svc.Spec.ExternalIPs {
		path := field.NewPath("spec", "externalIPs").Index(i)
		if bad := validation.IsValidIPForLegacyField(path, ip, strict, existing); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		errs = append(errs, validateOrdinaryIP(ip, path)...)
	}
	return errs
}

// validateOrdinaryIP refuses addresses that mean something to each node by itself:
// through an external IP they would hand a node's own services, its metadata service
// among them, to others.
func validateOrdinaryIP(ip string, path *field.Path) field.ErrorList {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil // an old value that today's rules don't know
	}
	addr = addr.Unmap()
	var reason string
	switch {
	case addr.IsUnspecified():
		reason = fmt.Sprintf("may not be unspecified (%v)", ip)
	case addr.IsLoopback():
		reason = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
	case addr.IsLinkLocalUnicast():
		reason = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
	case addr.IsLinkLocalMulticast():
		reason = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(path, ip, reason)}
}

// validateLoadBalancer checks the fields that only load balancers have.
func validateLoadBalancer(svc, old *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validateSourceRanges(svc, old)
	if svc.Spec.AllocateLoadBalancerNodePorts != nil && !isLoadBalancer(svc) {
		errs = append(errs, field.Forbidden(spec.Child("allocateLoadBalancerNodePorts"), onlyLoadBalancer))
	}
	if class := svc.Spec.LoadBalancerClass; class != nil {
		if !isLoadBalancer(svc) {
			return append(errs, field.Forbidden(spec.Child("loadBalancerClass"), onlyLoadBalancer))
		}
		for _, msg := range validation.IsQualifiedName(*class) {
			errs = append(errs, field.Invalid(spec.Child("loadBalancerClass"), *class, msg))
		}
	}
	return errs
}

func validateSourceRanges(svc, old *corev1.Service) field.ErrorList {
	if len(svc.Spec.LoadBalancerSourceRanges) == 0 {
		return validateSourceRangesAnnotation(svc, old)
	}
	var existing []string
	if old != nil {
		for _, r := range old.Spec.LoadBalancerSourceRanges {
			existing = append(existing, strings.TrimSpace(r))
		}
	}
	// Kubernetes spells this path with a capital letter; clients have seen no other.
	path := field.NewPath("spec", "LoadBalancerSourceRanges")
	var errs field.ErrorList
	if !isLoadBalancer(svc) {
		errs = append(errs, field.Forbidden(path, onlyLoadBalancer))
	}
	for i, r := range svc.Spec.LoadBalancerSourceRanges {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), strings.TrimSpace(r), strict, existing)...)
	}
	return errs
}

// validateSourceRangesAnnotation checks the ranges' home before they had a field.
func validateSourceRangesAnnotation(svc, old *corev1.Service) field.ErrorList {
	const key = corev1.AnnotationLoadBalancerSourceRangesKey
	value, ok := svc.Annotations[key]
	if !ok {
		return nil
	}
	path := field.NewPath("metadata", "annotations").Key(key)
	var errs field.ErrorList
	if !isLoadBalancer(svc) {
		errs = append(errs, field.Forbidden(path, onlyLoadBalancer))
	}
	if old != nil && old.Annotations[key] == value || strings.TrimSpace(value) == "" {
		return errs
	}
	for r := range strings.SplitSeq(strings.TrimSpace(value), ",") {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path, strings.TrimSpace(r), strict, nil)...)
	}
	return errs
}
