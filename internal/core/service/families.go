package service

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// families is a Service's place in the cluster's address families: the three fields
// that only make sense together.
type families struct {
	policy     corev1.IPFamilyPolicy
	list       []corev1.IPFamily
	clusterIPs []string
}

func (c Cluster) applyFamilies(svc, old *corev1.Service) {
	if !TakesClusterIPs(svc) {
		return
	}
	f, errs := c.resolveFamilies(svc, old)
	if len(errs) > 0 {
		return
	}
	svc.Spec.IPFamilyPolicy = &f.policy
	svc.Spec.IPFamilies = f.list
	svc.Spec.ClusterIPs = f.clusterIPs
}

// resolveFamilies decides policy, families and cluster IPs from what the client said,
// what the Service was (nil on create) and what the cluster has (API-04, API-06,
// API-07). Applied to its own result it changes nothing and finds no error, which is
// why preparation and validation can both call it.
func (c Cluster) resolveFamilies(svc, old *corev1.Service) (families, field.ErrorList) {
	f := families{
		policy:     defaultPolicy(svc, old),
		list:       slices.Clone(svc.Spec.IPFamilies),
		clusterIPs: slices.Clone(svc.Spec.ClusterIPs),
	}
	// The fields one by one; further checks would only restate a bad address.
	if errs := validateClusterIPs(svc, old); len(errs) > 0 {
		return f, errs
	}
	// Nobody touched it: neither is a PreferDualStack Service upgraded because the
	// cluster gained a family since, nor is one refused because the cluster lost it.
	if old != nil && f.unchanged(old) {
		return f, nil
	}

	var errs field.ErrorList
	if old != nil {
		errs = append(errs, f.release(old)...)
	}
	errs = append(errs, f.checkSingleStack()...)
	errs = append(errs, c.inferFamilies(&f)...)
	if len(errs) > 0 {
		return f, errs
	}

	// Without a selector we don't know the families of the endpoints that somebody
	// will write, so every combination is fine, whatever the cluster has (API-04).
	if IsHeadless(svc) && len(svc.Spec.Selector) == 0 {
		if len(f.list) == 0 {
			f.list = []corev1.IPFamily{c.Families[0]}
		}
		if len(f.list) == 1 && f.policy != corev1.IPFamilyPolicySingleStack {
			f.list = append(f.list, otherFamily(f.list[0]))
		}
		return f, nil
	}

	if errs := c.checkConfigured(f); len(errs) > 0 {
		return f, errs
	}
	if len(f.list) == 0 {
		f.list = []corev1.IPFamily{c.Families[0]}
	}
	if len(f.list) == 1 && f.policy != corev1.IPFamilyPolicySingleStack && c.dualStack() {
		f.list = append(f.list, otherFamily(f.list[0]))
	}
	return f, nil
}

// defaultPolicy gives the policy that the client chose, the one that the Service had,
// or the default of a new one. There is no static default: a Service must not change
// between one and two families unless somebody says so.
func defaultPolicy(svc, old *corev1.Service) corev1.IPFamilyPolicy {
	switch {
	case svc.Spec.IPFamilyPolicy != nil:
		return *svc.Spec.IPFamilyPolicy
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		return *old.Spec.IPFamilyPolicy
	case IsHeadless(svc) && len(svc.Spec.Selector) == 0:
		return corev1.IPFamilyPolicyRequireDualStack
	}
	return corev1.IPFamilyPolicySingleStack
}

func (f *families) unchanged(old *corev1.Service) bool {
	return len(f.list) > 0 && TakesClusterIPs(old) && f.policy == policy(old) &&
		slices.Equal(f.list, old.Spec.IPFamilies) && slices.Equal(f.clusterIPs, old.Spec.ClusterIPs)
}

// release drops the second family of a Service that becomes SingleStack. The policy
// alone is clear intent, even when both are still listed (API-06); without it, leaving
// the second out of a list is an error, as it may be a mistake that costs an address.
func (f *families) release(old *corev1.Service) field.ErrorList {
	if f.policy == corev1.IPFamilyPolicySingleStack {
		if len(f.clusterIPs) > 1 && slices.Equal(f.clusterIPs, old.Spec.ClusterIPs) {
			f.clusterIPs = f.clusterIPs[:1]
		}
		if len(f.list) > 1 && slices.Equal(f.list, old.Spec.IPFamilies) {
			f.list = f.list[:1]
		}
		return nil
	}
	var errs field.ErrorList
	if n := len(f.clusterIPs); n > 0 && n < len(old.Spec.ClusterIPs) {
		errs = append(errs, field.Invalid(policyPath(), string(f.policy), "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if n := len(f.list); n > 0 && n < len(old.Spec.IPFamilies) {
		errs = append(errs, field.Invalid(policyPath(), string(f.policy), "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

func (f *families) checkSingleStack() field.ErrorList {
	if f.policy != corev1.IPFamilyPolicySingleStack {
		return nil
	}
	var errs field.ErrorList
	if len(f.clusterIPs) == 2 {
		errs = append(errs, field.Invalid(policyPath(), string(f.policy), "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if len(f.list) == 2 {
		errs = append(errs, field.Invalid(policyPath(), string(f.policy), "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	return errs
}

// inferFamilies adds the families of addresses for which none is listed.
func (c Cluster) inferFamilies(f *families) field.ErrorList {
	var errs field.ErrorList
	for i, ip := range f.clusterIPs {
		if ip == corev1.ClusterIPNone || i < len(f.list) {
			continue
		}
		family := familyOf(ip)
		if !c.Has(family) {
			errs = append(errs, field.Invalid(clusterIPsPath().Index(i), f.clusterIPs, fmt.Sprintf("%s is not configured on this cluster", family)))
			continue
		}
		f.list = append(f.list, family)
	}
	return errs
}

func (c Cluster) checkConfigured(f families) field.ErrorList {
	var errs field.ErrorList
	if f.policy == corev1.IPFamilyPolicyRequireDualStack && !c.dualStack() {
		errs = append(errs, field.Invalid(policyPath(), string(f.policy), "this cluster is not configured for dual-stack services"))
	}
	for i, family := range f.list {
		if !c.Has(family) {
			errs = append(errs, field.Invalid(familiesPath().Index(i), string(family), "not configured on this cluster"))
		}
	}
	return errs
}

// familyOf gives the family of an address that validateClusterIPs let pass.
func familyOf(ip string) corev1.IPFamily {
	if addr, err := netip.ParseAddr(ip); err == nil && addr.Unmap().Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func otherFamily(family corev1.IPFamily) corev1.IPFamily {
	if family == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

func policyPath() *field.Path     { return field.NewPath("spec", "ipFamilyPolicy") }
func familiesPath() *field.Path   { return field.NewPath("spec", "ipFamilies") }
func clusterIPsPath() *field.Path { return field.NewPath("spec", "clusterIPs") }
