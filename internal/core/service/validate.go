package service

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	onlyLoadBalancer = "may only be used when `type` is 'LoadBalancer'"
	mayNotChange     = "may not change once set"
)

// Validate reports everything that is wrong with a new, prepared Service (API-05,
// API-07). What it still lacks (addresses, node ports) is no error: it is assigned
// next.
func (c Cluster) Validate(svc *corev1.Service) field.ErrorList {
	// A Service name may begin with a digit since KEP-5311.
	errs := apivalidation.ValidateObjectMeta(&svc.ObjectMeta, true, apivalidation.NameIsDNSLabel, field.NewPath("metadata"))
	return append(errs, c.validate(svc, nil)...)
}

// ValidateUpdate reports everything that is wrong with a prepared update, with what
// may not change first (API-06). Values that the stored Service has and that today's
// rules for addresses would refuse are let pass.
func (c Cluster) ValidateUpdate(svc, old *corev1.Service) field.ErrorList {
	errs := apivalidation.ValidateObjectMetaUpdate(&svc.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
	errs = append(errs, validateImmutable(svc, old)...)
	return append(errs, c.validate(svc, old)...)
}

func (c Cluster) validate(svc, old *corev1.Service) field.ErrorList {
	errs := validateAnnotations(svc)
	errs = append(errs, validateType(svc)...)
	errs = append(errs, validatePorts(svc)...)
	errs = append(errs, validateSelector(svc.Spec.Selector)...)
	errs = append(errs, validateAffinity(&svc.Spec)...)
	if TakesClusterIPs(svc) {
		_, familyErrs := c.resolveFamilies(svc, old)
		errs = append(errs, familyErrs...)
	}
	errs = append(errs, validateExternalIPs(svc, old)...)
	errs = append(errs, validateLoadBalancer(svc, old)...)
	errs = append(errs, validateTrafficPolicies(svc)...)
	return errs
}

// validateImmutable: what a Service is known by stays while its type keeps it.
func validateImmutable(svc, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if TakesClusterIPs(old) && TakesClusterIPs(svc) && !(IsHeadless(old) && IsHeadless(svc)) {
		errs = append(errs, immutableClusterIPs(svc, old)...)
	}
	if isLoadBalancer(old) && isLoadBalancer(svc) && !samePtr(old.Spec.LoadBalancerClass, svc.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "loadBalancerClass"), svc.Spec.LoadBalancerClass, mayNotChange))
	}
	if NeedsHealthCheckNodePort(old) && NeedsHealthCheckNodePort(svc) && old.Spec.HealthCheckNodePort != svc.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "healthCheckNodePort"), "field is immutable"))
	}
	return errs
}

// immutableClusterIPs compares what both versions list. That the second family can't
// be left out without a word is resolveFamilies' rule. An address and None can't be
// exchanged: both are values of clusterIPs[0].
func immutableClusterIPs(svc, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	for i := range min(len(old.Spec.ClusterIPs), len(svc.Spec.ClusterIPs)) {
		if old.Spec.ClusterIPs[i] != svc.Spec.ClusterIPs[i] {
			errs = append(errs, field.Invalid(clusterIPsPath().Index(i), svc.Spec.ClusterIPs, mayNotChange))
		}
	}
	if IsHeadless(old) != IsHeadless(svc) {
		return errs
	}
	for i := range min(len(old.Spec.IPFamilies), len(svc.Spec.IPFamilies)) {
		if old.Spec.IPFamilies[i] != svc.Spec.IPFamilies[i] {
			errs = append(errs, field.Invalid(familiesPath().Index(i), svc.Spec.IPFamilies, mayNotChange))
		}
	}
	return errs
}

// validateType checks type and the fields that hang on it alone.
func validateType(svc *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	switch svc.Spec.Type {
	case corev1.ServiceTypeClusterIP:
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		if IsHeadless(svc) {
			return field.ErrorList{field.Invalid(spec.Child("clusterIPs").Index(0), corev1.ClusterIPNone,
				"may not be set to 'None' for "+string(svc.Spec.Type)+" services")}
		}
	case corev1.ServiceTypeExternalName:
		return validateExternalName(svc)
	case "":
		return field.ErrorList{field.Required(spec.Child("type"), "")}
	default:
		return field.ErrorList{field.NotSupported(spec.Child("type"), svc.Spec.Type, []corev1.ServiceType{
			corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort,
		})}
	}
	return nil
}

func validateExternalName(svc *corev1.Service) field.ErrorList {
	const notForExternalName = "may not be set for ExternalName services"
	var errs field.ErrorList
	if len(svc.Spec.ClusterIPs) > 0 || svc.Spec.ClusterIP != "" {
		errs = append(errs, field.Forbidden(clusterIPsPath(), notForExternalName))
	}
	if len(svc.Spec.IPFamilies) > 0 {
		errs = append(errs, field.Forbidden(familiesPath(), notForExternalName))
	}
	if svc.Spec.IPFamilyPolicy != nil {
		errs = append(errs, field.Forbidden(policyPath(), notForExternalName))
	}
	path := field.NewPath("spec", "externalName")
	// A final dot says that the name is fully qualified (RFC 1034, 3.1).
	name := strings.TrimSuffix(svc.Spec.ExternalName, ".")
	if name == "" {
		return append(errs, field.Required(path, ""))
	}
	for _, msg := range validation.IsDNS1123Subdomain(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	return errs
}

func validateSelector(selector map[string]string) field.ErrorList {
	keys := make([]string, 0, len(selector))
	for key := range selector {
		keys = append(keys, key)
	}
	slices.Sort(keys) // the same answer to the same request
	var errs field.ErrorList
	for _, key := range keys {
		errs = append(errs, metav1validation.ValidateLabels(map[string]string{key: selector[key]}, field.NewPath("spec", "selector"))...)
	}
	return errs
}

func validateAffinity(spec *corev1.ServiceSpec) field.ErrorList {
	path := field.NewPath("spec", "sessionAffinity")
	config := field.NewPath("spec", "sessionAffinityConfig")
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		return validateClientIP(spec.SessionAffinityConfig, config)
	case corev1.ServiceAffinityNone:
		if spec.SessionAffinityConfig != nil {
			return field.ErrorList{field.Forbidden(config, "must not be set when session affinity is None")}
		}
	case "":
		return field.ErrorList{field.Required(path, "")}
	default:
		return field.ErrorList{field.NotSupported(path, spec.SessionAffinity,
			[]corev1.ServiceAffinity{corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone})}
	}
	return nil
}

// maxAffinitySeconds is a day, as the API's documentation of timeoutSeconds says.
const maxAffinitySeconds = 86400

func validateClientIP(config *corev1.SessionAffinityConfig, path *field.Path) field.ErrorList {
	const needed = "when session affinity type is ClientIP"
	switch {
	case config == nil:
		return field.ErrorList{field.Required(path, needed)}
	case config.ClientIP == nil:
		return field.ErrorList{field.Required(path.Child("clientIP"), needed)}
	case config.ClientIP.TimeoutSeconds == nil:
		return field.ErrorList{field.Required(path.Child("clientIP", "timeoutSeconds"), needed)}
	}
	if t := *config.ClientIP.TimeoutSeconds; t <= 0 || t > maxAffinitySeconds {
		return field.ErrorList{field.Invalid(path.Child("clientIP", "timeoutSeconds"), t, "must be greater than 0 and less than 86400")}
	}
	return nil
}

// validateTrafficPolicies checks the policies and the health check node port, which
// may be missing: it is assigned later.
func validateTrafficPolicies(svc *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	external := svc.Spec.ExternalTrafficPolicy
	switch path := spec.Child("externalTrafficPolicy"); {
	case !externallyAccessible(svc):
		if external != "" {
			errs = append(errs, field.Invalid(path, external, "may only be set for externally-accessible services"))
		}
	case external == "":
		errs = append(errs, field.Required(path, ""))
	case external != corev1.ServiceExternalTrafficPolicyCluster && external != corev1.ServiceExternalTrafficPolicyLocal:
		errs = append(errs, field.NotSupported(path, external,
			[]corev1.ServiceExternalTrafficPolicy{corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal}))
	}
	errs = append(errs, validateHealthCheckNodePort(svc)...)

	// internalTrafficPolicy on an ExternalName Service means nothing, but Kubernetes
	// never refused it.
	switch internal := svc.Spec.InternalTrafficPolicy; {
	case internal == nil:
		if TakesClusterIPs(svc) {
			errs = append(errs, field.Required(spec.Child("internalTrafficPolicy"), ""))
		}
	case *internal != corev1.ServiceInternalTrafficPolicyCluster && *internal != corev1.ServiceInternalTrafficPolicyLocal:
		errs = append(errs, field.NotSupported(spec.Child("internalTrafficPolicy"), *internal,
			[]corev1.ServiceInternalTrafficPolicy{corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal}))
	}
	if d := svc.Spec.TrafficDistribution; d != nil {
		known := []string{
			corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameNode,
			corev1.ServiceTrafficDistributionPreferSameZone,
		}
		if !slices.Contains(known, *d) {
			errs = append(errs, field.NotSupported(spec.Child("trafficDistribution"), *d, known))
		}
	}
	return errs
}

func validateHealthCheckNodePort(svc *corev1.Service) field.ErrorList {
	path := field.NewPath("spec", "healthCheckNodePort")
	port := svc.Spec.HealthCheckNodePort
	if port == 0 {
		return nil
	}
	if !NeedsHealthCheckNodePort(svc) {
		return field.ErrorList{field.Invalid(path, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")}
	}
	var errs field.ErrorList
	for _, msg := range validation.IsValidPortNum(int(port)) {
		errs = append(errs, field.Invalid(path, port, msg))
	}
	if slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == port }) {
		errs = append(errs, field.Invalid(path, port, "provided port is already allocated"))
	}
	return errs
}
