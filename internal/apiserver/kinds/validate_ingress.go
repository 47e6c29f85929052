package kinds

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// ingressClassAnnotation is how a class was named before there was a field.
	ingressClassAnnotation = "kubernetes.io/ingress.class"
	// maxControllerLength is upstream's limit on IngressClass.spec.controller.
	maxControllerLength = 250
)

func validateNewIngress(in *networkingv1.Ingress) field.ErrorList {
	errs := append(validateMeta(&in.ObjectMeta, true, apivalidation.NameIsDNSSubdomain), validateIngress(&in.Spec)...)
	class, ok := in.Annotations[ingressClassAnnotation]
	if ok && in.Spec.IngressClassName != nil && class != *in.Spec.IngressClassName {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(ingressClassAnnotation), class,
			"must match `ingressClassName` when both are specified"))
	}
	return errs
}

func validateChangedIngress(in, old *networkingv1.Ingress) field.ErrorList {
	return append(validateMetaUpdate(&in.ObjectMeta, &old.ObjectMeta), validateIngress(&in.Spec)...)
}

// validateIngress checks an Ingress with the paths and words of Kubernetes.
func validateIngress(spec *networkingv1.IngressSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if spec.DefaultBackend != nil {
		errs = append(errs, validateIngressBackend(spec.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range spec.Rules {
		errs = append(errs, validateIngressRule(&spec.Rules[i], path.Child("rules").Index(i))...)
	}
	for i, tls := range spec.TLS {
		at := path.Child("tls").Index(i)
		for j, host := range tls.Hosts {
			errs = append(errs, validateHost(host, at.Child("hosts").Index(j))...)
		}
		if tls.SecretName != "" {
			errs = append(errs, named(tls.SecretName, apivalidation.NameIsDNSSubdomain(tls.SecretName, false), at.Child("secretName"))...)
		}
	}
	if class := spec.IngressClassName; class != nil {
		errs = append(errs, named(*class, apivalidation.NameIsDNSSubdomain(*class, false), path.Child("ingressClassName"))...)
	}
	return errs
}

// named makes an error of each message about a value.
func named(value string, messages []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range messages {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

func validateHost(host string, path *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return named(host, validation.IsWildcardDNS1123Subdomain(host), path)
	}
	return named(host, validation.IsDNS1123Subdomain(host), path)
}

func validateIngressRule(rule *networkingv1.IngressRule, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if rule.Host != "" {
		if _, err := netip.ParseAddr(rule.Host); err == nil {
			errs = append(errs, field.Invalid(path.Child("host"), rule.Host, "must be a DNS name, not an IP address"))
		}
		errs = append(errs, validateHost(rule.Host, path.Child("host"))...)
	}
	if rule.HTTP == nil {
		return errs
	}
	paths := path.Child("http", "paths")
	if len(rule.HTTP.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range rule.HTTP.Paths {
		errs = append(errs, validateIngressPath(&rule.HTTP.Paths[i], paths.Index(i))...)
	}
	return errs
}

func validateIngressPath(p *networkingv1.HTTPIngressPath, path *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	at := path.Child("path")
	var errs field.ErrorList
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, part) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", part)))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", end)))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("pathType"), *p.PathType,
			[]networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}))
	}
	return append(errs, validateIngressBackend(&p.Backend, path.Child("backend"))...)
}

func validateIngressBackend(b *networkingv1.IngressBackend, path *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return validateReference(b.Resource.APIGroup, b.Resource.Kind, b.Resource.Name, path.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	}
	service := path.Child("service")
	var errs field.ErrorList
	if b.Service.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	} else {
		errs = append(errs, named(b.Service.Name, apivalidation.NameIsDNSLabel(b.Service.Name, false), service.Child("name"))...)
	}
	switch port := b.Service.Port; {
	case port.Name != "" && port.Number != 0:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case port.Name != "":
		errs = append(errs, named(port.Name, validation.IsValidPortName(port.Name), service.Child("port", "name"))...)
	case port.Number != 0:
		for _, msg := range validation.IsValidPortNum(int(port.Number)) {
			errs = append(errs, field.Invalid(service.Child("port", "number"), port.Number, msg))
		}
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

// validateReference checks a reference to an object of any kind.
func validateReference(group *string, kind, name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if group != nil {
		errs = append(errs, named(*group, validation.IsDNS1123Subdomain(*group), path.Child("apiGroup"))...)
	}
	if kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	}
	if name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	errs = append(errs, named(kind, content.IsPathSegmentName(kind), path.Child("kind"))...)
	return append(errs, named(name, content.IsPathSegmentName(name), path.Child("name"))...)
}

func validateIngressStatus(in, old *networkingv1.Ingress) field.ErrorList {
	errs := validateMetaUpdate(&in.ObjectMeta, &old.ObjectMeta)
	var existing []string
	for _, at := range old.Status.LoadBalancer.Ingress {
		existing = append(existing, at.IP)
	}
	for i, at := range in.Status.LoadBalancer.Ingress {
		path := field.NewPath("status", "loadBalancer", "ingress").Index(i)
		if at.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(path.Child("ip"), at.IP, true, existing)...)
		}
		if at.Hostname != "" {
			errs = append(errs, named(at.Hostname, validation.IsDNS1123Subdomain(at.Hostname), path.Child("hostname"))...)
			if _, err := netip.ParseAddr(at.Hostname); err == nil {
				errs = append(errs, field.Invalid(path.Child("hostname"), at.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}

func validateIngressClass(spec *networkingv1.IngressClassSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if spec.Controller == "" {
		errs = append(errs, field.Required(path.Child("controller"), ""))
	} else {
		if len(spec.Controller) > maxControllerLength {
			errs = append(errs, field.TooLong(path.Child("controller"), "", maxControllerLength))
		}
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("controller"), spec.Controller)...)
	}
	p := spec.Parameters
	if p == nil {
		return errs
	}
	path = path.Child("parameters")
	errs = append(errs, validateReference(p.APIGroup, p.Kind, p.Name, path)...)
	namespace := path.Child("namespace")
	switch {
	case p.Scope == nil:
		errs = append(errs, field.Required(path.Child("scope"), ""))
	case *p.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			errs = append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
		} else {
			errs = append(errs, named(*p.Namespace, apivalidation.ValidateNamespaceName(*p.Namespace, false), namespace)...)
		}
	case *p.Scope == networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("scope"), *p.Scope, []string{
			networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace,
		}))
	}
	return errs
}
