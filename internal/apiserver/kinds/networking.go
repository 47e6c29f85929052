package kinds

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"

	"portico.dev/portico/internal/apiserver/registry"
)

// Ingress, IngressClass and NetworkPolicy are kept for other projects' controllers.
// Nothing of ours acts on them.

// policyNotEnforced is the Warning with each written NetworkPolicy: whoever writes one
// relies on it.
const policyNotEnforced = "nothing enforces this NetworkPolicy yet: all traffic stays allowed"

func addNetworking(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
	if _, _, err := registry.Add(s, scheme, options, ingressKind()); err != nil {
		return err
	}
	if _, _, err := registry.Add(s, scheme, options, ingressClassKind()); err != nil {
		return err
	}
	_, _, err := registry.Add(s, scheme, options, networkPolicyKind())
	return err
}

// addNetworkingDefaults registers the static defaults of the group.
func addNetworkingDefaults(s *runtime.Scheme) {
	setDefaults(s, defaultNetworkPolicy, func(l *networkingv1.NetworkPolicyList) []networkingv1.NetworkPolicy { return l.Items })
	setDefaults(s, defaultIngressClass, func(l *networkingv1.IngressClassList) []networkingv1.IngressClass { return l.Items })
}

// defaultNetworkPolicy: a policy is for ingress always, and for egress if it says so
// or has rules for it.
func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	spec := &p.Spec
	if len(spec.PolicyTypes) == 0 {
		spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(spec.Egress) > 0 {
			spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	for i := range spec.Ingress {
		defaultPolicyPorts(spec.Ingress[i].Ports)
	}
	for i := range spec.Egress {
		defaultPolicyPorts(spec.Egress[i].Ports)
	}
}

func defaultPolicyPorts(ports []networkingv1.NetworkPolicyPort) {
	for i := range ports {
		if ports[i].Protocol == nil {
			ports[i].Protocol = new(corev1.ProtocolTCP)
		}
	}
}

func defaultIngressClass(c *networkingv1.IngressClass) {
	if p := c.Spec.Parameters; p != nil && p.Scope == nil {
		p.Scope = new(networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

func networkPolicyKind() registry.Kind[*networkingv1.NetworkPolicy] {
	return registry.Kind[*networkingv1.NetworkPolicy]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "networkpolicies", Singular: "networkpolicy", Short: []string{"netpol"}, Namespaced: true,
		NewObject: func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
		NewList:   func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		Rules: registry.Rules[*networkingv1.NetworkPolicy]{
			Validate: func(p *networkingv1.NetworkPolicy) field.ErrorList {
				return append(validateMeta(&p.ObjectMeta, true, validation.NameIsDNSSubdomain), validatePolicy(&p.Spec, nil)...)
			},
			ValidateUpdate: func(p, old *networkingv1.NetworkPolicy) field.ErrorList {
				return append(validateMetaUpdate(&p.ObjectMeta, &old.ObjectMeta), validatePolicy(&p.Spec, policyPrefixes(&old.Spec))...)
			},
			Warnings: func(_, _ *networkingv1.NetworkPolicy) []string { return []string{policyNotEnforced} },
		},
		Table: registry.Table[*networkingv1.NetworkPolicy]{
			Columns: []metav1.TableColumnDefinition{registry.Column("Pod-Selector", "Labels of the pods that it is for.")},
			Row: func(p *networkingv1.NetworkPolicy) []any {
				return []any{metav1.FormatLabelSelector(&p.Spec.PodSelector)}
			},
		},
	}
}

func ingressKind() registry.Kind[*networkingv1.Ingress] {
	return registry.Kind[*networkingv1.Ingress]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "ingresses", Singular: "ingress", Short: []string{"ing"}, Namespaced: true,
		NewObject: func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
		NewList:   func() runtime.Object { return &networkingv1.IngressList{} },
		Rules: registry.Rules[*networkingv1.Ingress]{
			Validate:       validateNewIngress,
			ValidateUpdate: validateChangedIngress,
			ValidateStatus: validateIngressStatus,
		},
		Table: registry.Table[*networkingv1.Ingress]{
			Columns: []metav1.TableColumnDefinition{
				registry.Column("Class", "The IngressClass that serves it."), registry.Column("Hosts", "Names that it answers for."),
				registry.Column("Address", "Where its controller answers."), registry.Column("Ports", "80, and 443 with TLS."),
			},
			Row: ingressRow,
		},
	}
}

func ingressRow(in *networkingv1.Ingress) []any {
	class, ports := "", "80"
	if in.Spec.IngressClassName != nil {
		class = *in.Spec.IngressClassName
	}
	if len(in.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	var hosts []string
	for _, rule := range in.Spec.Rules {
		if rule.Host != "" {
			hosts = append(hosts, rule.Host)
		}
	}
	if len(hosts) == 0 {
		hosts = []string{"*"}
	}
	var addresses []string
	for _, at := range in.Status.LoadBalancer.Ingress {
		if at.IP != "" {
			addresses = append(addresses, at.IP)
		} else if at.Hostname != "" {
			addresses = append(addresses, at.Hostname)
		}
	}
	slices.Sort(addresses)
	return []any{none(class), strings.Join(hosts, ","), strings.Join(addresses, ","), ports}
}

func ingressClassKind() registry.Kind[*networkingv1.IngressClass] {
	return registry.Kind[*networkingv1.IngressClass]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "ingressclasses", Singular: "ingressclass",
		NewObject: func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
		NewList:   func() runtime.Object { return &networkingv1.IngressClassList{} },
		Rules: registry.Rules[*networkingv1.IngressClass]{
			Validate: func(c *networkingv1.IngressClass) field.ErrorList {
				return append(validateMeta(&c.ObjectMeta, false, validation.NameIsDNSSubdomain), validateIngressClass(&c.Spec)...)
			},
			ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
				errs := validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta)
				errs = append(errs, validation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))...)
				return append(errs, validateIngressClass(&c.Spec)...)
			},
		},
		Table: registry.Table[*networkingv1.IngressClass]{
			Columns: []metav1.TableColumnDefinition{registry.Column("Controller", "Who serves the class."), registry.Column("Parameters", "An object with the class's settings.")},
			Row: func(c *networkingv1.IngressClass) []any {
				p := c.Spec.Parameters
				if p == nil {
					return []any{c.Spec.Controller, "<none>"}
				}
				kind := p.Kind
				if p.APIGroup != nil && *p.APIGroup != "" {
					kind += "." + *p.APIGroup
				}
				return []any{c.Spec.Controller, kind + "/" + p.Name}
			},
		},
	}
}
