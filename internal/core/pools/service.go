package pools

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/metallb"
)

// Class is the loadBalancerClass of Services that are ours; those without a class are too.
const Class = "portico.dev/loadbalancer"

// Annotations of Services. Each is also known by the older prefix, which counts where the
// newer one isn't there.
const (
	PoolAnnotation      = metallb.Group + "/address-pool"
	AddressesAnnotation = metallb.Group + "/loadBalancerIPs"
	SharingAnnotation   = metallb.Group + "/allow-shared-ip"
	// FromPoolAnnotation is ours to write: the pool that the addresses are of.
	FromPoolAnnotation = metallb.Group + "/ip-allocated-from-pool"
)

const olderPrefix = "metallb.universe.tf"

func annotation(svc *corev1.Service, name string) string {
	if value, ok := svc.Annotations[name]; ok {
		return value
	}
	return svc.Annotations[olderPrefix+strings.TrimPrefix(name, metallb.Group)]
}

// Ours tells whether a Service's load balancer is ours (LB-06).
func Ours(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		(svc.Spec.LoadBalancerClass == nil || *svc.Spec.LoadBalancerClass == Class)
}

// Addresses gives those of the Service's status that clients send to, in its order.
func Addresses(svc *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		if ingress.IPMode != nil && *ingress.IPMode != corev1.LoadBalancerIPModeVIP {
			continue
		}
		if addr, err := netip.ParseAddr(ingress.IP); err == nil {
			out = append(out, addr.Unmap())
		}
	}
	return out
}

// Key says which Services may share an address: those of one key that isn't empty.
type Key struct {
	Sharing string // what the annotation says; empty: with nobody
	// Backends keeps those apart of which each wants the client's address kept and whose
	// backends differ: a node can't announce an address for one of them only.
	Backends string
}

// KeyOf gives the Service's.
func KeyOf(svc *corev1.Service) Key {
	k := Key{Sharing: annotation(svc, SharingAnnotation)}
	if svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		k.Backends = labels.Set(svc.Spec.Selector).String()
	}
	return k
}

// port is what only one of the Services of an address can have.
type port struct {
	protocol corev1.Protocol
	number   int32
}

func (p port) String() string { return fmt.Sprintf("%s %d", p.protocol, p.number) }

// wish is what a Service asks for.
type wish struct {
	name      types.NamespacedName
	labels    map[string]string
	namespace map[string]string // the namespace's labels
	families  []int             // bits of an address, the primary family first
	policy    corev1.IPFamilyPolicy
	pool      string       // by name; empty: any
	wanted    []netip.Addr // these and no others; none: any
	key       Key
	ports     []port
}

func readWish(svc *corev1.Service, namespaceLabels map[string]string) (*wish, *Refusal) {
	w := &wish{
		name: nameOf(svc), labels: svc.Labels, namespace: namespaceLabels,
		policy: corev1.IPFamilyPolicySingleStack, pool: annotation(svc, PoolAnnotation), key: KeyOf(svc), ports: portsOf(svc),
	}
	if svc.Spec.IPFamilyPolicy != nil {
		w.policy = *svc.Spec.IPFamilyPolicy
	}
	for _, family := range svc.Spec.IPFamilies {
		w.families = append(w.families, bitsOf(family))
	}
	if len(w.families) == 0 {
		return nil, refuse(NoFamily, "the Service has no cluster IP yet, which says the family of its addresses")
	}
	var refusal *Refusal
	w.wanted, refusal = readWanted(svc)
	return w, refusal
}

// readWanted reads the addresses that a Service names.
func readWanted(svc *corev1.Service) ([]netip.Addr, *Refusal) {
	list, field := annotation(svc, AddressesAnnotation), svc.Spec.LoadBalancerIP
	if list != "" && field != "" && list != field {
		return nil, refuse(BadRequest, "spec.loadBalancerIP is %s, and the annotation %s says %q; keep one of the two", field, AddressesAnnotation, list)
	}
	from := AddressesAnnotation
	if list == "" {
		list, from = field, "spec.loadBalancerIP"
	}
	if list == "" {
		return nil, nil
	}
	var out []netip.Addr
	for text := range strings.SplitSeq(list, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return nil, refuse(BadRequest, "%s: %q is no IP address; write one, or one of each family with a comma between", from, strings.TrimSpace(text))
		}
		out = append(out, addr.Unmap())
	}
	if len(out) > 2 || len(out) == 2 && out[0].BitLen() == out[1].BitLen() {
		return nil, refuse(BadRequest, "%s: a Service has one address of each family at most, not %q", from, list)
	}
	return out, nil
}

func nameOf(svc *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}
}

func portsOf(svc *corev1.Service) []port {
	ports := make([]port, len(svc.Spec.Ports))
	for i, p := range svc.Spec.Ports {
		ports[i] = port{cmp.Or(p.Protocol, corev1.ProtocolTCP), p.Port}
	}
	return ports
}

func bitsOf(family corev1.IPFamily) int {
	if family == corev1.IPv6Protocol {
		return 128
	}
	return 32
}

func familyName(family int) string {
	if family == 128 {
		return "IPv6"
	}
	return "IPv4"
}

// allows tells whether a pool that is pinned to some Services is for this one.
func (p *pool) allows(w *wish) bool {
	a := p.Spec.ServiceAllocation
	if a == nil {
		return true
	}
	if len(a.Namespaces)+len(a.NamespaceSelectors) > 0 && !slices.Contains(a.Namespaces, w.name.Namespace) &&
		(len(a.NamespaceSelectors) == 0 || !announcing.Matches(a.NamespaceSelectors, w.namespace)) {
		return false
	}
	return announcing.Matches(a.ServiceSelectors, w.labels)
}

// priority of a pinned pool; lower comes first.
func (p *pool) priority() int {
	if n := p.Spec.ServiceAllocation.Priority; n > 0 {
		return n
	}
	return math.MaxInt
}

// checkSelectors finds selectors that can't be read, which match nothing.
func checkSelectors(p *metallb.IPAddressPool) []Fault {
	var faults []Fault
	if a := p.Spec.ServiceAllocation; a != nil {
		for _, s := range slices.Concat(a.NamespaceSelectors, a.ServiceSelectors) {
			if _, err := metav1.LabelSelectorAsSelector(&s); err != nil {
				faults = append(faults, Fault{Pool: p.Name, Message: fmt.Sprintf("spec.serviceAllocation: a selector can't be read and matches nothing: %v", err)})
			}
		}
	}
	return faults
}
