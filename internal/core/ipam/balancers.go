package ipam

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/core/pools"
)

// BalancerClaims gives what a Service of ours claims by the addresses in its status: each
// of its ports there. The claims of an address lie in one folder, and in it in one of the
// Services that share it (a hash of their key) or of the one that doesn't (its UID):
//
//	lb/192.0.2.1/key-5e88.../TCP/80
//
// A new claim needs the address's other folders to be empty (Rivals). So the store sees to
// it that only Services of one key share an address, with different ports.
func BalancerClaims(svc *corev1.Service) []Claim {
	if !pools.Ours(svc) {
		return nil
	}
	var claims []Claim
	for _, addr := range pools.Addresses(svc) {
		folder := balancerFolder(addr) + balancerGroup(svc) + "/"
		for _, p := range svc.Spec.Ports {
			claims = append(claims, Claim{Balancer, fmt.Sprintf("%s%s/%d", folder, p.Protocol, p.Port), svc.UID})
		}
	}
	return claims
}

// AllServiceClaims gives all that a Service claims.
func AllServiceClaims(svc *corev1.Service) []Claim {
	return slices.Concat(ServiceClaims(svc), BalancerClaims(svc))
}

func balancerFolder(addr netip.Addr) string { return string(Balancer) + "/" + addr.String() + "/" }

func balancerGroup(svc *corev1.Service) string {
	key := pools.KeyOf(svc)
	if key.Sharing == "" {
		return string(svc.UID)
	}
	sum := sha256.Sum256([]byte(key.Sharing + "\x00" + key.Backends))
	return "key-" + hex.EncodeToString(sum[:8])
}

// Span are the keys from From up to To, without To.
type Span struct {
	From, To string
	Claim    Claim // the new one that needs them absent
}

// Rivals gives the keys that must be absent for the claims to be added: all of a
// load-balancer address that aren't of the claim's own folder, but for those removed at the
// same time.
func Rivals(add, remove []Claim) []Span {
	var spans []Span
	seen := map[string]bool{}
	for _, c := range add {
		folder, own, ok := balancerFolders(c.Key)
		if !ok || seen[own] {
			continue
		}
		seen[own] = true
		spans = append(spans, gaps(c, folder, own, remove)...)
	}
	return spans
}

// gaps are the spans of a folder around its part own and around the removed keys.
func gaps(c Claim, folder, own string, remove []Claim) []Span {
	allowed := []Span{{From: own, To: after(own)}}
	for _, r := range remove {
		if strings.HasPrefix(r.Key, folder) && !strings.HasPrefix(r.Key, own) {
			allowed = append(allowed, Span{From: r.Key, To: r.Key + "\x00"})
		}
	}
	slices.SortFunc(allowed, func(a, b Span) int { return strings.Compare(a.From, b.From) })
	var out []Span
	from := folder
	for _, a := range append(allowed, Span{From: after(folder)}) {
		if from < a.From {
			out = append(out, Span{from, a.From, c})
		}
		from = a.To
	}
	return out
}

// balancerFolders splits "lb/192.0.2.1/group/TCP/80" into the address's folder and the group's.
func balancerFolders(key string) (folder, own string, ok bool) {
	parts := strings.SplitAfterN(key, "/", 4)
	if len(parts) != 4 || parts[0] != string(Balancer)+"/" {
		return "", "", false
	}
	return parts[0] + parts[1], parts[0] + parts[1] + parts[2], true
}

// after is the first key behind all that begin with a folder's name.
func after(folder string) string { return strings.TrimSuffix(folder, "/") + "0" } // "0" follows "/"

// balancerConflict is what a client gets whose Service would have an address that another
// has.
func balancerConflict(svc *corev1.Service, key string) *field.Error {
	folder, _, _ := balancerFolders(key)
	addr := strings.TrimSuffix(strings.TrimPrefix(folder, string(Balancer)+"/"), "/")
	return field.Invalid(field.NewPath("status", "loadBalancer", "ingress"), addr,
		"is the address of another Service. To share it both need the same value of the annotation "+pools.SharingAnnotation+
			", different ports, and externalTrafficPolicy Cluster or the same selector")
}
