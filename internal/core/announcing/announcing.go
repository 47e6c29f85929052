package announcing

import (
	"cmp"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/metallb"
)

// Input is all that decides what a node announces, at one moment.
type Input struct {
	Config   *metallb.Config
	Self     string    // the node that decides
	Nodes    []Node    // with Self, by name
	Services []Service // those that have an address of a pool, by name
}

// Node is one that may announce.
type Node struct {
	Name      string
	Labels    map[string]string
	Addresses []netip.Addr // its own, the primary of each family first
	// Excluded by the label node.kubernetes.io/exclude-from-external-load-balancers.
	Excluded bool
	// Draining: no new workloads come (spec.unschedulable). It announces what nobody
	// else can.
	Draining bool
	// Ready is the condition of this name.
	Ready bool
}

// Service is one with load-balancer addresses.
type Service struct {
	catalog.View
	Labels    map[string]string
	Addresses []Address
}

// Address is one of status.loadBalancer.ingress, and the pool that has it.
type Address struct {
	netip.Addr
	Pool *metallb.IPAddressPool
}

// Ready tells whether node may announce the address of s: with externalTrafficPolicy Local
// only where a ready endpoint of its family is; with Cluster every node may, even without
// any endpoint, so that clients are refused at once and don't wait (LB-05).
func (s *Service) Ready(addr netip.Addr, node string) bool {
	if !s.Service.ExternalLocal {
		return true
	}
	for _, slice := range s.Slices {
		if slice.IPv6 != addr.Is6() {
			continue
		}
		for i := range slice.Endpoints {
			if e := &slice.Endpoints[i]; e.Ready && e.Node == node {
				return true
			}
		}
	}
	return false
}

// Matches tells whether one of the selectors matches; an empty list matches everything. A
// selector that can't be read matches nothing.
func Matches(selectors []metav1.LabelSelector, set map[string]string) bool {
	if len(selectors) == 0 {
		return true
	}
	return slices.ContainsFunc(selectors, func(s metav1.LabelSelector) bool {
		parsed, err := metav1.LabelSelectorAsSelector(&s)
		return err == nil && parsed.Matches(labels.Set(set))
	})
}

// ForPool tells whether an advertisement that names pools and selects pools is for this
// one. With neither it is for all.
func ForPool(names []string, selectors []metav1.LabelSelector, pool *metallb.IPAddressPool) bool {
	if len(names) == 0 && len(selectors) == 0 {
		return true
	}
	return slices.Contains(names, pool.Name) || len(selectors) > 0 && Matches(selectors, pool.Labels)
}

// CompareNames is the order of Services: by namespace, then by name.
func CompareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
