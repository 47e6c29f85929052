//lint:file-ignore SA1019 Endpoints are deprecated and still served (EP-04).

package kinds

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/apiserver/registry"
)

// maxPrintedEndpoints is how many addresses a table shows before "+ N more...".
const maxPrintedEndpoints = 3

// EndpointsDeprecated is the Warning with every request for Endpoints (EP-04).
const EndpointsDeprecated = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"

func endpointsKind() registry.Kind[*corev1.Endpoints] {
	return registry.Kind[*corev1.Endpoints]{
		GroupVersion: corev1.SchemeGroupVersion, Plural: "endpoints", Singular: "endpoints", Short: []string{"ep"}, Namespaced: true,
		NewObject: func() *corev1.Endpoints { return &corev1.Endpoints{} },
		NewList:   func() runtime.Object { return &corev1.EndpointsList{} },
		Rules: registry.Rules[*corev1.Endpoints]{
			CreateOnUpdate: true,
			Validate: func(e *corev1.Endpoints) field.ErrorList {
				return append(validateMeta(&e.ObjectMeta, true, validation.NameIsDNSSubdomain), validateSubsets(e)...)
			},
			ValidateUpdate: func(e, old *corev1.Endpoints) field.ErrorList {
				return append(validateMetaUpdate(&e.ObjectMeta, &old.ObjectMeta), validateSubsets(e)...)
			},
		},
		Table: registry.Table[*corev1.Endpoints]{
			Columns: []metav1.TableColumnDefinition{registry.Column("Endpoints", "Ready addresses and ports.")},
			Row:     func(e *corev1.Endpoints) []any { return []any{printSubsets(e.Subsets)} },
		},
	}
}

func validateSubsets(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, subset := range e.Subsets {
		path := field.NewPath("subsets").Index(i)
		if len(subset.Addresses)+len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range subset.Addresses {
			errs = append(errs, validateEndpointIP(a.IP, path.Child("addresses").Index(j).Child("ip"))...)
		}
		for j, a := range subset.NotReadyAddresses {
			errs = append(errs, validateEndpointIP(a.IP, path.Child("notReadyAddresses").Index(j).Child("ip"))...)
		}
		for j, p := range subset.Ports {
			at := path.Child("ports").Index(j)
			if p.Port < 1 || p.Port > 65535 {
				errs = append(errs, field.Invalid(at.Child("port"), p.Port, "must be between 1 and 65535, inclusive"))
			}
			if p.Name == "" && len(subset.Ports) > 1 {
				errs = append(errs, field.Required(at.Child("name"), ""))
			}
		}
	}
	return errs
}

// validateEndpointIP refuses what can't be reached through a Service: an endpoint
// on loopback would let users of Services reach the node's own daemons.
func validateEndpointIP(ip string, path *field.Path) field.ErrorList {
	addr, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return field.ErrorList{field.Invalid(path, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")}
	case addr.IsUnspecified():
		return field.ErrorList{field.Invalid(path, ip, fmt.Sprintf("may not be unspecified (%v)", ip))}
	case addr.IsLoopback():
		return field.ErrorList{field.Invalid(path, ip, "may not be in the loopback range (127.0.0.0/8, ::1/128)")}
	case addr.IsLinkLocalUnicast():
		return field.ErrorList{field.Invalid(path, ip, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")}
	case addr.IsMulticast():
		return field.ErrorList{field.Invalid(path, ip, "may not be in the multicast range (224.0.0.0/4, ff00::/8)")}
	}
	return nil
}

func printSubsets(subsets []corev1.EndpointSubset) string {
	var list []string
	for _, s := range subsets {
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				list = append(list, netJoin(a.IP, p.Port))
			}
		}
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				list = append(list, a.IP)
			}
		}
	}
	return printSome(list)
}

func netJoin(ip string, port int32) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]:" + strconv.Itoa(int(port))
	}
	return ip + ":" + strconv.Itoa(int(port))
}

func printSome(list []string) string {
	if len(list) > maxPrintedEndpoints {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:maxPrintedEndpoints], ","), len(list)-maxPrintedEndpoints)
	}
	return none(strings.Join(list, ","))
}

func endpointSliceKind() registry.Kind[*discoveryv1.EndpointSlice] {
	return registry.Kind[*discoveryv1.EndpointSlice]{
		GroupVersion: discoveryv1.SchemeGroupVersion, Plural: "endpointslices", Singular: "endpointslice", Namespaced: true,
		NewObject: func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
		NewList:   func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		Rules: registry.Rules[*discoveryv1.EndpointSlice]{
			Validate: func(s *discoveryv1.EndpointSlice) field.ErrorList {
				return append(validateMeta(&s.ObjectMeta, true, validation.NameIsDNSSubdomain), validateSlice(s)...)
			},
			ValidateUpdate: func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
				errs := append(validateMetaUpdate(&s.ObjectMeta, &old.ObjectMeta), validateSlice(s)...)
				return append(errs, validation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
			},
		},
		Table: registry.Table[*discoveryv1.EndpointSlice]{
			Columns: []metav1.TableColumnDefinition{
				registry.Column("AddressType", "IPv4, IPv6 or FQDN."), registry.Column("Ports", "Ports of every endpoint."), registry.Column("Endpoints", "Addresses."),
			},
			Row: func(s *discoveryv1.EndpointSlice) []any {
				var ports, addresses []string
				for _, p := range s.Ports {
					if p.Port != nil {
						ports = append(ports, strconv.Itoa(int(*p.Port)))
					}
				}
				for _, e := range s.Endpoints {
					addresses = append(addresses, e.Addresses...)
				}
				if len(ports) == 0 {
					ports = []string{"<unset>"}
				}
				if len(addresses) == 0 {
					addresses = []string{"<unset>"}
				}
				return []any{string(s.AddressType), printSome(ports), printSome(addresses)}
			},
		},
	}
}

func validateSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	var errs field.ErrorList
	switch s.AddressType {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN:
	case "":
		errs = append(errs, field.Required(field.NewPath("addressType"), ""))
	default:
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), s.AddressType,
			[]discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN}))
	}
	if len(s.Endpoints) > 1000 {
		errs = append(errs, field.TooMany(field.NewPath("endpoints"), len(s.Endpoints), 1000))
	}
	for i, e := range s.Endpoints {
		path := field.NewPath("endpoints").Index(i).Child("addresses")
		if len(e.Addresses) == 0 {
			errs = append(errs, field.Required(path, "must contain at least 1 address"))
		}
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for j, a := range e.Addresses {
			errs = append(errs, validateEndpointIP(a, path.Index(j))...)
			if addr, err := netip.ParseAddr(a); err == nil && addr.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4) {
				errs = append(errs, field.Invalid(path.Index(j), a, fmt.Sprintf("must be an %s address", s.AddressType)))
			}
		}
	}
	return errs
}

func leaseKind() registry.Kind[*coordinationv1.Lease] {
	return registry.Kind[*coordinationv1.Lease]{
		GroupVersion: coordinationv1.SchemeGroupVersion, Plural: "leases", Singular: "lease", Namespaced: true,
		NewObject: func() *coordinationv1.Lease { return &coordinationv1.Lease{} },
		NewList:   func() runtime.Object { return &coordinationv1.LeaseList{} },
		Rules: registry.Rules[*coordinationv1.Lease]{
			CreateOnUpdate: true,
			Validate: func(l *coordinationv1.Lease) field.ErrorList {
				errs := validateMeta(&l.ObjectMeta, true, validation.NameIsDNSSubdomain)
				if d := l.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
					errs = append(errs, field.Invalid(field.NewPath("spec", "leaseDurationSeconds"), *d, "must be greater than 0"))
				}
				return errs
			},
			ValidateUpdate: func(l, old *coordinationv1.Lease) field.ErrorList {
				return validateMetaUpdate(&l.ObjectMeta, &old.ObjectMeta)
			},
		},
		Table: registry.Table[*coordinationv1.Lease]{
			Columns: []metav1.TableColumnDefinition{registry.Column("Holder", "Who holds the lease.")},
			Row: func(l *coordinationv1.Lease) []any {
				if l.Spec.HolderIdentity == nil {
					return []any{""}
				}
				return []any{*l.Spec.HolderIdentity}
			},
		},
	}
}
