package proxy

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	libproxy "k8s.io/apiserver/pkg/util/proxy"
)

// Endpoint picks a ready endpoint behind a Service's port at random, one of the Service's
// primary family where there is any. port is the ServicePort's name. valid may pass over
// some; nil passes over none. The error is a 503 in Kubernetes' words.
func Endpoint(svc *corev1.Service, port string, list []discoveryv1.EndpointSlice, valid func(*discoveryv1.Endpoint) bool) (netip.AddrPort, error) {
	pointers := make([]*discoveryv1.EndpointSlice, 0, len(list))
	for i := range list {
		if list[i].AddressType != discoveryv1.AddressTypeFQDN {
			pointers = append(pointers, &list[i])
		}
	}
	family := corev1.IPFamilyUnknown
	if len(svc.Spec.IPFamilies) > 0 {
		family = svc.Spec.IPFamilies[0]
	}
	host, err := libproxy.RandomEndpoint(svc.Name, pointers, port, family, valid)
	if err != nil {
		return netip.AddrPort{}, err
	}
	at, err := netip.ParseAddrPort(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the endpoint of Service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return at, nil
}
