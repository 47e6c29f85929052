package pools

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// Reserved are addresses that no load balancer may have, and why.
type Reserved struct {
	netip.Prefix
	What string // "the cluster IPs of Services"
}

// OfServiceCIDR gives what Services get their cluster IPs from. One that ends counts until
// it is gone: it may have Services (KEP-1880).
func OfServiceCIDR(cidr *networkingv1.ServiceCIDR) []Reserved {
	return reserve(cidr.Spec.CIDRs, "the cluster IPs of ServiceCIDR "+cidr.Name)
}

// OfNode gives what is a node's own.
func OfNode(node *corev1.Node) []Reserved {
	var out []Reserved
	for _, a := range node.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			out = append(out, Reserved{Prefix: netip.PrefixFrom(addr, addr.BitLen()), What: "the address of node " + node.Name})
		}
	}
	return append(out, reserve(node.Spec.PodCIDRs, "the pod addresses of node "+node.Name)...)
}

func reserve(cidrs []string, what string) []Reserved {
	var out []Reserved
	for _, cidr := range cidrs {
		if prefix, err := netip.ParsePrefix(cidr); err == nil {
			out = append(out, Reserved{Prefix: prefix, What: what})
		}
	}
	return out
}
