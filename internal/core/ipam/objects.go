package ipam

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// DefaultServiceCIDR is the ServiceCIDR whose ranges the server's flags give
	// (KEP-1880).
	DefaultServiceCIDR = "kubernetes"
	// ServiceCIDRFinalizer keeps a deleted ServiceCIDR until no address of it is in use.
	ServiceCIDRFinalizer = "networking.k8s.io/service-cidr-finalizer"
	// MirrorManager is the value of networkingv1.LabelManagedBy on the IPAddress of a
	// cluster IP, as upstream's.
	MirrorManager = "ipallocator.k8s.io"
)

// ServiceCIDRClaims gives what a ServiceCIDR claims: its ranges, until it is being
// deleted. So the write that begins its deletion ends the giving of its addresses, on
// all servers.
func ServiceCIDRClaims(c *networkingv1.ServiceCIDR) []Claim {
	if c.DeletionTimestamp != nil {
		return nil
	}
	var claims []Claim
	for _, prefix := range Prefixes(c) {
		claims = append(claims, Claim{CIDR, rangeKey(prefix, c.Name), c.UID})
	}
	return claims
}

// Prefixes gives a ServiceCIDR's ranges; what isn't one is left out.
func Prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, cidr := range c.Spec.CIDRs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			out = append(out, prefix)
		}
	}
	return out
}

// IPAddressClaims gives what an IPAddress claims: the address it is named after, unless
// it only mirrors a Service's claim.
func IPAddressClaims(a *networkingv1.IPAddress) []Claim {
	claim := AddressClaim(a.Name, a.UID)
	if claim.Key == "" || IsMirror(a) {
		return nil
	}
	return []Claim{claim}
}

// IsMirror tells the IPAddress that stands for a Service's claim from one that has its
// own.
func IsMirror(a *networkingv1.IPAddress) bool {
	ref := a.Spec.ParentRef
	return a.Labels[networkingv1.LabelManagedBy] == MirrorManager && ref != nil && ref.Group == "" && ref.Resource == "services"
}

// AddressClaim is an object's claim on an address; the zero Claim where text is none.
func AddressClaim(text string, owner types.UID) Claim {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return Claim{}
	}
	return Claim{Address, addressKey(addr), owner}
}

// Mirror makes the IPAddress that stands for a Service's claim on a cluster IP.
func Mirror(svc *corev1.Service, addr netip.Addr) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: addr.String(),
			Labels: map[string]string{
				networkingv1.LabelIPAddressFamily: string(FamilyOf(addr)),
				networkingv1.LabelManagedBy:       MirrorManager,
			},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
	}
}

// SameMirror reports whether two IPAddresses say the same of their address.
func SameMirror(a, b *networkingv1.IPAddress) bool {
	return a.Labels[networkingv1.LabelManagedBy] == b.Labels[networkingv1.LabelManagedBy] &&
		a.Labels[networkingv1.LabelIPAddressFamily] == b.Labels[networkingv1.LabelIPAddressFamily] &&
		equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// FamilyOf gives the family of an address.
func FamilyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// ReadyCondition is that of a ServiceCIDR which gives addresses, in upstream's words.
func ReadyCondition() metav1.Condition {
	return metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Reason: "Ready",
		Message: "Kubernetes Service CIDR is ready",
	}
}

// TerminatingCondition is that of one whose deletion waits for its addresses.
func TerminatingCondition() metav1.Condition {
	return metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
		Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
	}
}

// rangeKey is the key of a ServiceCIDR's claim. The name is part of it, as several may
// have one range.
func rangeKey(prefix netip.Prefix, name string) string {
	return string(CIDR) + "/" + prefix.String() + "/" + name
}

// parseRangeKey reads the prefix of rangeKey.
func parseRangeKey(key string) (netip.Prefix, bool) {
	rest, ok := strings.CutPrefix(key, string(CIDR)+"/")
	at := strings.LastIndexByte(rest, '/')
	if !ok || at < 0 {
		return netip.Prefix{}, false
	}
	prefix, err := netip.ParsePrefix(rest[:at])
	return prefix, err == nil
}
