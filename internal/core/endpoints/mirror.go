//lint:file-ignore SA1019 Endpoints is deprecated, and served and kept all the same (EP-04).

package endpoints

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// MirrorInput is all that decides the slices that mirror an Endpoints object.
type MirrorInput struct {
	Service   *corev1.Service
	Endpoints *corev1.Endpoints // nil: there is none, and no mirror is wanted
	Existing  []*discoveryv1.EndpointSlice
	Taken     func(name string) bool
	Trigger   time.Time
	Limit     int
}

// Mirrored says whether an Endpoints object asks to be mirrored: its Service has
// no selector, and it doesn't say no.
func Mirrored(svc *corev1.Service, e *corev1.Endpoints) bool {
	return len(svc.Spec.Selector) == 0 && svc.Spec.Type != corev1.ServiceTypeExternalName &&
		e.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// Mirror plans the slices that repeat a hand-written Endpoints object (EP-05).
// Slices left over from a time when the Service had a selector are taken over,
// so that losing the selector never interrupts anything. Without an object only
// earlier mirrors go.
func Mirror(in MirrorInput) Plan {
	if in.Endpoints == nil || !Mirrored(in.Service, in.Endpoints) {
		var p Plan
		for _, slice := range in.Existing {
			if slice.Labels[discoveryv1.LabelManagedBy] == ManagedByMirror && slice.DeletionTimestamp == nil {
				p.Delete = append(p.Delete, slice)
			}
		}
		return p
	}
	source := maps.Clone(in.Endpoints.Labels)
	delete(source, endpointsManagedBy)
	f := family{
		namespace: in.Service.Namespace,
		service:   in.Service.Name,
		seed:      string(in.Endpoints.UID),
		labels:    sliceLabels(source, in.Service, ManagedByMirror),
		owner:     *metav1.NewControllerRef(in.Endpoints, corev1.SchemeGroupVersion.WithKind("Endpoints")),
		taken:     in.Taken,
		trigger:   in.Trigger,
		limit:     in.Limit,
	}
	return f.plan(mirrorSets(in.Endpoints), in.Existing)
}

// mirrorSets reads the object's subsets; as Kubernetes does, no more than
// Capacity addresses of each.
func mirrorSets(e *corev1.Endpoints) []*endpointSet {
	v4, v6 := setsOf(discoveryv1.AddressTypeIPv4), setsOf(discoveryv1.AddressTypeIPv6)
	for i := range e.Subsets {
		subset := &e.Subsets[i]
		ports := mirrorPorts(subset.Ports)
		left := Capacity
		add := func(list []corev1.EndpointAddress, ready bool) {
			for j := range list {
				addr, ok := parse(list[j].IP)
				if !ok || left == 0 {
					continue
				}
				left--
				endpoint := mirrorEndpoint(&list[j], ready)
				endpoint.Addresses = []string{addr.String()}
				if addr.Is4() {
					v4.add(ports, endpoint)
				} else {
					v6.add(ports, endpoint)
				}
			}
		}
		add(subset.Addresses, true)
		add(subset.NotReadyAddresses, false)
	}
	return append(v4.sorted(false), v6.sorted(false)...)
}

func mirrorEndpoint(a *corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	out := discoveryv1.Endpoint{
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready},
		TargetRef:  a.TargetRef,
		NodeName:   a.NodeName,
	}
	if name := a.Hostname; name != "" {
		out.Hostname = &name
	}
	return out
}

func mirrorPorts(in []corev1.EndpointPort) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, 0, len(in))
	for i := range in {
		name, number, proto := in[i].Name, in[i].Port, protocol(in[i].Protocol)
		out = append(out, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &proto, AppProtocol: in[i].AppProtocol})
	}
	return out
}
