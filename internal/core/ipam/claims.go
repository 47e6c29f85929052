package ipam

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/service"
)

// Kind is what a claim is on. It is the first part of the claim's key.
type Kind string

const (
	Address  Kind = "ip"
	NodePort Kind = "nodeport"
	MAC      Kind = "mac"
	// CIDR is a ServiceCIDR's claim on a range, which other ServiceCIDRs may claim too.
	// Addresses of the range are given only while one of these claims lives.
	CIDR Kind = "range"
	// Balancer is a Service's claim on a port of a load-balancer address, which others may
	// share.
	Balancer Kind = "lb"
)

// Claim is an object's right to something that only one object can have.
type Claim struct {
	Kind Kind
	// Key names what is claimed, relative to the storage's prefix for claims:
	// "ip/10.96.0.20", "nodeport/30000", "mac/02:70:0a:f5:00:02",
	// "range/10.96.0.0/12/kubernetes", "lb/192.0.2.1/key-5e884898da280471/TCP/80".
	Key string
	// Owner is the UID of the object, and the claim's value.
	Owner types.UID
}

// Addr gives the address that is claimed, if it is one.
func (c Claim) Addr() (netip.Addr, bool) {
	addr, _ := parseKey(c.Key)
	return addr, addr.IsValid()
}

// ServiceClaims gives what the Service claims: the cluster IPs and, by number, the
// node ports, each once however many protocols share it, as etcd refuses a key twice
// in one transaction. It is a function of the object alone. What a Service carries
// without using it, such as the node ports of an ExternalName Service, isn't claimed.
func ServiceClaims(svc *corev1.Service) []Claim {
	if !service.TakesClusterIPs(svc) {
		return nil
	}
	var claims []Claim
	for _, ip := range svc.Spec.ClusterIPs {
		if addr, err := netip.ParseAddr(ip); err == nil { // None is no address
			claims = append(claims, Claim{Address, addressKey(addr), svc.UID})
		}
	}
	seen := map[int32]bool{0: true}
	claimPort := func(port int32) {
		if !seen[port] {
			seen[port] = true
			claims = append(claims, Claim{NodePort, portKey(port), svc.UID})
		}
	}
	if service.TakesNodePorts(svc) {
		for _, p := range svc.Spec.Ports {
			claimPort(p.NodePort)
		}
	}
	if service.NeedsHealthCheckNodePort(svc) {
		claimPort(svc.Spec.HealthCheckNodePort)
	}
	return claims
}

// GuestClaims gives the claims on a guest's addresses and its hardware address.
func GuestClaims(addrs []netip.Addr, mac net.HardwareAddr, owner types.UID) []Claim {
	var claims []Claim
	for _, addr := range addrs {
		claims = append(claims, Claim{Address, addressKey(addr), owner})
	}
	if len(mac) > 0 {
		claims = append(claims, Claim{MAC, string(MAC) + "/" + mac.String(), owner})
	}
	return claims
}

// addressKey writes an address in its one canonical form, so that fd00::1 and
// fd00:0::1 are one claim.
func addressKey(addr netip.Addr) string {
	return string(Address) + "/" + addr.Unmap().WithZone("").String()
}

func portKey(port int32) string {
	return string(NodePort) + "/" + strconv.Itoa(int(port))
}

// parseKey is the inverse of addressKey and portKey, also for numbers that are no
// ports; both results are zero for other keys.
func parseKey(key string) (addr netip.Addr, port int32) {
	kind, name, _ := strings.Cut(key, "/")
	switch Kind(kind) {
	case Address:
		addr, _ = netip.ParseAddr(name)
	case NodePort:
		if n, err := strconv.ParseInt(name, 10, 32); err == nil {
			port = int32(n)
		}
	}
	return addr, port
}
