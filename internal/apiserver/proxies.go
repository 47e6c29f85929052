package apiserver

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"portico.dev/portico/internal/apiserver/proxy"
	"portico.dev/portico/internal/apiserver/registry"
)

// addProxies serves services/proxy and pods/proxy (API-14). It comes after what they
// read: Services, pods and EndpointSlices.
func addProxies(s registry.Set) error {
	core := s[corev1.SchemeGroupVersion]
	services, ok1 := core["services"].(rest.Getter)
	pods, ok2 := core["pods"].(rest.Getter)
	slices, ok3 := s[discoveryv1.SchemeGroupVersion]["endpointslices"].(rest.Lister)
	if !ok1 || !ok2 || !ok3 {
		return errors.New("set up proxies: Services, pods or EndpointSlices can't be read")
	}
	objects := proxy.Objects{Services: services, Pods: pods, Slices: slices}
	core["services/proxy"], core["pods/proxy"] = proxy.Services(objects), proxy.Pods(objects)
	return nil
}
