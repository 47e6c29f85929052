package endpoints

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Hints says for whom the endpoint is meant when the Service prefers near ones
// (KEP-3015, PreferSameZone and PreferSameNode): clients of its own zone, of its
// own node. Only ready endpoints carry hints.
//
// An annotation that asks for topology mode Auto beats trafficDistribution. Auto
// spreads endpoints over zones by their share of CPUs; that isn't written yet,
// and without hints every client uses every endpoint, as Auto itself does
// whenever there are too few.
func Hints(svc *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if topologyAuto(svc) || svc.Spec.TrafficDistribution == nil || !*e.Conditions.Ready {
		return nil
	}
	var out discoveryv1.EndpointHints
	switch *svc.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			out.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
		fallthrough // who has no endpoint on its node takes one of its zone
	case corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferClose:
		if e.Zone != nil {
			out.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
		}
	}
	if out.ForNodes == nil && out.ForZones == nil {
		return nil
	}
	return &out
}

// topologyAuto: the older annotation, where it is given, beats the newer.
func topologyAuto(svc *corev1.Service) bool {
	mode, ok := svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if !ok {
		mode = svc.Annotations[corev1.AnnotationTopologyMode]
	}
	return mode == "Auto" || mode == "auto"
}
