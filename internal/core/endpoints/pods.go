package endpoints

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Selects says whether the Service takes its endpoints from this pod. A Service
// without a selector, and one of type ExternalName, has none from pods.
func Selects(svc *corev1.Service, pod *corev1.Pod) bool {
	return HasPodEndpoints(svc) && svc.Namespace == pod.Namespace &&
		nearness(svc.Spec.Selector, pod.Labels).equal == len(svc.Spec.Selector)
}

// HasPodEndpoints says whether the Service's endpoints come from pods. Those of
// other Services are written by hand, or there are none.
func HasPodEndpoints(svc *corev1.Service) bool {
	return len(svc.Spec.Selector) > 0 && svc.Spec.Type != corev1.ServiceTypeExternalName
}

// PodChanged says whether two versions of a pod may differ in a Service's
// endpoints; a change of the labels means that another Service may select it.
// Most updates of pods are about something else and end here.
func PodChanged(old, pod *corev1.Pod) bool {
	return old.UID != pod.UID ||
		ended(old) != ended(pod) ||
		serving(old) != serving(pod) ||
		terminating(old) != terminating(pod) ||
		old.Status.PodIP != pod.Status.PodIP ||
		!slices.Equal(old.Status.PodIPs, pod.Status.PodIPs) ||
		old.Spec.NodeName != pod.Spec.NodeName ||
		old.Spec.Hostname != pod.Spec.Hostname ||
		old.Spec.Subdomain != pod.Spec.Subdomain ||
		!equality.Semantic.DeepEqual(old.Labels, pod.Labels)
}

// ended: such a pod never runs again, and another may have its address already.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func terminating(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }

// serving is the pod's Ready condition. It goes on being true while the pod
// terminates, which is what lets it serve when nothing else does (KEP-1672).
func serving(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// address is the pod's first address of the family.
func address(pod *corev1.Pod, family discoveryv1.AddressType) (netip.Addr, bool) {
	for _, ip := range pod.Status.PodIPs {
		if a, ok := parse(ip.IP); ok && familyOf(a) == family {
			return a, true
		}
	}
	// Only a writer older than dual-stack sets podIP alone.
	if a, ok := parse(pod.Status.PodIP); ok && familyOf(a) == family {
		return a, true
	}
	return netip.Addr{}, false
}

func parse(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err == nil
}

func familyOf(a netip.Addr) discoveryv1.AddressType {
	if a.Is4() {
		return discoveryv1.AddressTypeIPv4
	}
	return discoveryv1.AddressTypeIPv6
}

// families are the address types the Service has slices for, the primary first.
func families(svc *corev1.Service) []discoveryv1.AddressType {
	var out []discoveryv1.AddressType
	for _, f := range svc.Spec.IPFamilies {
		switch f {
		case corev1.IPv4Protocol:
			out = append(out, discoveryv1.AddressTypeIPv4)
		case corev1.IPv6Protocol:
			out = append(out, discoveryv1.AddressTypeIPv6)
		}
	}
	if len(out) > 0 {
		return out
	}
	// The API server defaults ipFamilies; without them the cluster IP tells,
	// and a headless Service takes what the pods have.
	if a, ok := parse(svc.Spec.ClusterIP); ok {
		return []discoveryv1.AddressType{familyOf(a)}
	}
	return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
}

// targetPort is the number on which the pod answers for the Service's port. A
// named target is looked up in the pod, so each pod may have its own.
func targetPort(port *corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	if port.TargetPort.Type == intstr.Int {
		if n := port.TargetPort.IntVal; n != 0 {
			return n, true
		}
		return port.Port, true // what the API's default says
	}
	name, proto := port.TargetPort.StrVal, protocol(port.Protocol)
	for i := range pod.Spec.Containers {
		if n, ok := namedPort(&pod.Spec.Containers[i], name, proto); ok {
			return n, true
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		// One that restarts always is a sidecar (KEP-753) and serves like the rest.
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if n, ok := namedPort(c, name, proto); ok {
			return n, true
		}
	}
	return 0, false
}

func namedPort(c *corev1.Container, name string, proto corev1.Protocol) (int32, bool) {
	for _, p := range c.Ports {
		if p.Name == name && protocol(p.Protocol) == proto {
			return p.ContainerPort, true
		}
	}
	return 0, false
}

func protocol(p corev1.Protocol) corev1.Protocol {
	if p == "" {
		return corev1.ProtocolTCP
	}
	return p
}

// hostname is the pod's own name below the Service's (DNS-02), or "".
func hostname(svc *corev1.Service, pod *corev1.Pod) string {
	if pod.Spec.Subdomain == svc.Name && pod.Namespace == svc.Namespace {
		return pod.Spec.Hostname
	}
	return ""
}

func podReference(pod *corev1.Pod) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
}
