package kinds

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/apiserver/registry"
	"portico.dev/portico/internal/core/ipam"
)

// serviceCIDRKind is a range that Services draw from (KEP-1880). guests are ranges that
// none may overlap with.
func serviceCIDRKind(guests []netip.Prefix) registry.Kind[*networkingv1.ServiceCIDR] {
	return registry.Kind[*networkingv1.ServiceCIDR]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "servicecidrs", Singular: "servicecidr",
		NewObject: func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
		NewList:   func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		Rules: registry.Rules[*networkingv1.ServiceCIDR]{
			// From the first moment on: between its creation and a controller's attention it
			// could be deleted with addresses in use.
			PrepareCreate: func(c *networkingv1.ServiceCIDR) {
				if !slices.Contains(c.Finalizers, ipam.ServiceCIDRFinalizer) {
					c.Finalizers = append(c.Finalizers, ipam.ServiceCIDRFinalizer)
				}
			},
			Validate: func(c *networkingv1.ServiceCIDR) field.ErrorList {
				return append(validateMeta(&c.ObjectMeta, false, validation.NameIsDNSSubdomain), validateServiceCIDRs(c, guests)...)
			},
			ValidateUpdate: func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
				return append(validateMetaUpdate(&c.ObjectMeta, &old.ObjectMeta), validateServiceCIDRChange(c, old, guests)...)
			},
		},
		Table: registry.Table[*networkingv1.ServiceCIDR]{
			Columns: []metav1.TableColumnDefinition{registry.Column("CIDRs", "The ranges, the primary family's first.")},
			Row:     func(c *networkingv1.ServiceCIDR) []any { return []any{strings.Join(c.Spec.CIDRs, ",")} },
		},
	}
}

var cidrsPath = field.NewPath("spec", "cidrs")

// validateServiceCIDRs answers in upstream's words, but for what a range of ours can't be.
func validateServiceCIDRs(c *networkingv1.ServiceCIDR, guests []netip.Prefix) field.ErrorList {
	cidrs := c.Spec.CIDRs
	switch {
	case len(cidrs) == 0:
		return field.ErrorList{field.Required(cidrsPath, "at least one CIDR required")}
	case len(cidrs) > 2:
		return field.ErrorList{field.Invalid(cidrsPath, c.Spec, "may only hold up to 2 values")}
	}
	prefixes := ipam.Prefixes(c)
	if len(cidrs) == 2 && (len(prefixes) != 2 || prefixes[0].Addr().Is4() == prefixes[1].Addr().Is4()) {
		return field.ErrorList{field.Invalid(cidrsPath, c.Spec, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64")}
	}
	var errs field.ErrorList
	for i, cidr := range cidrs {
		at := cidrsPath.Index(i)
		if wrong := utilvalidation.IsValidCIDR(at, cidr); len(wrong) > 0 {
			errs = append(errs, wrong...)
			continue
		}
		prefix := prefixes[i]
		if _, err := ipam.NewRange(prefix, nil); err != nil {
			errs = append(errs, field.Invalid(at, cidr, err.Error()))
		}
		for _, guest := range guests {
			if prefix.Overlaps(guest) {
				errs = append(errs, field.Invalid(at, cidr, fmt.Sprintf("overlaps with %s, from which virtual machines get their addresses; choose another range", guest)))
			}
		}
	}
	return errs
}

// validateServiceCIDRChange lets a range of the other family be added, and nothing else
// (KEP-1880: from single-stack to dual-stack).
func validateServiceCIDRChange(c, old *networkingv1.ServiceCIDR, guests []netip.Prefix) field.ErrorList {
	if len(c.Spec.CIDRs) == 2 && len(old.Spec.CIDRs) == 1 && c.Spec.CIDRs[0] == old.Spec.CIDRs[0] {
		return validateServiceCIDRs(c, guests)
	}
	return validation.ValidateImmutableField(c.Spec.CIDRs, old.Spec.CIDRs, cidrsPath)
}

func ipAddressKind() registry.Kind[*networkingv1.IPAddress] {
	return registry.Kind[*networkingv1.IPAddress]{
		GroupVersion: networkingv1.SchemeGroupVersion, Plural: "ipaddresses", Singular: "ipaddress", Short: []string{"ip"},
		NewObject: func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
		NewList:   func() runtime.Object { return &networkingv1.IPAddressList{} },
		Rules: registry.Rules[*networkingv1.IPAddress]{
			Validate: func(a *networkingv1.IPAddress) field.ErrorList {
				return append(validateMeta(&a.ObjectMeta, false, validateIPName), validateParent(a.Spec.ParentRef)...)
			},
			ValidateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
				errs := validateMetaUpdate(&a.ObjectMeta, &old.ObjectMeta)
				return append(errs, validation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
			},
		},
		Table: registry.Table[*networkingv1.IPAddress]{
			Columns: []metav1.TableColumnDefinition{registry.Column("ParentRef", "The object that holds the address.")},
			Row:     func(a *networkingv1.IPAddress) []any { return []any{printParent(a.Spec.ParentRef)} },
		},
	}
}

// validateIPName wants an address in its canonical form, so that one address can have
// one object only.
func validateIPName(name string, _ bool) []string {
	var wrong []string
	for _, err := range utilvalidation.IsValidIP(nil, name) {
		wrong = append(wrong, err.Detail)
	}
	return wrong
}

func validateParent(ref *networkingv1.ParentReference) field.ErrorList {
	at := field.NewPath("spec", "parentRef")
	if ref == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	segment := func(name, value string, required bool) {
		if value == "" {
			if required {
				errs = append(errs, field.Required(at.Child(name), ""))
			}
			return
		}
		for _, msg := range content.IsPathSegmentName(value) {
			errs = append(errs, field.Invalid(at.Child(name), value, msg))
		}
	}
	if ref.Group != "" {
		for _, msg := range utilvalidation.IsDNS1123Subdomain(ref.Group) {
			errs = append(errs, field.Invalid(at.Child("group"), ref.Group, msg))
		}
	}
	segment("resource", ref.Resource, true)
	segment("name", ref.Name, true)
	segment("namespace", ref.Namespace, false)
	return errs
}

func printParent(ref *networkingv1.ParentReference) string {
	if ref == nil {
		return "<none>"
	}
	resource := ref.Resource
	if ref.Group != "" {
		resource += "." + ref.Group
	}
	if ref.Namespace == "" {
		return resource + "/" + ref.Name
	}
	return strings.Join([]string{resource, ref.Namespace, ref.Name}, "/")
}
