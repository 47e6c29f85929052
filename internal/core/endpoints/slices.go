package endpoints

import (
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Values of the label endpointslice.kubernetes.io/managed-by. They are those of
// Kubernetes' own controllers, because clients look for them.
const (
	ManagedByPods   = "endpointslice-controller.k8s.io"
	ManagedByMirror = "endpointslicemirroring-controller.k8s.io"
)

// DefaultLimit is how many endpoints one slice holds at most. The API allows
// 1,000; 100 keeps one change's message to every node small (KEP-752).
const DefaultLimit = 100

// Input is all that decides a Service's slices.
type Input struct {
	Service *corev1.Service
	// Pods are those that the Service selects (Selects), in any order.
	Pods []*corev1.Pod
	// Zone gives a node's topology zone, or "" when it is unknown; nil: none is
	// known.
	Zone func(node string) string
	// Existing are the Service's slices that Managed accepts. They are read only.
	Existing []*discoveryv1.EndpointSlice
	// Taken says that some slice of the namespace has the name already; nil:
	// only the existing ones' are taken.
	Taken func(name string) bool
	// Trigger is the time of the change that led here; it is written to the
	// slices that change. Zero: unknown.
	Trigger time.Time
	// Limit is the most endpoints of a slice; 0: DefaultLimit.
	Limit int
}

// Plan is what to write, in this order: an endpoint that moves from one slice to
// another is then never missing. Creates have no resource version; updates are
// copies of the existing slices with theirs, so that they fail when another
// writer was faster.
type Plan struct {
	Create, Update, Delete []*discoveryv1.EndpointSlice
}

// Empty says that all is right as it is.
func (p Plan) Empty() bool { return len(p.Create)+len(p.Update)+len(p.Delete) == 0 }

// Managed says that a controller owns the slice, by its label: one made by hand
// is left alone.
func Managed(slice *discoveryv1.EndpointSlice) bool {
	by := slice.Labels[discoveryv1.LabelManagedBy]
	return by == ManagedByPods || by == ManagedByMirror
}

// Slices plans the slices of a Service whose endpoints are pods. One whose type
// is ExternalName has none. It must not be called for a Service without a
// selector: Mirror is for those.
func Slices(in Input) Plan {
	svc := in.Service
	owner := family{
		namespace: svc.Namespace,
		service:   svc.Name,
		seed:      string(svc.UID),
		labels:    sliceLabels(svc.Labels, svc, ManagedByPods),
		owner:     *metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service")),
		taken:     in.Taken,
		trigger:   in.Trigger,
		limit:     in.Limit,
	}
	return owner.plan(podSets(&in), in.Existing)
}

// podSets computes what the slices should say: one set of endpoints for each
// family and each list of ports that pods answer on. A family without any
// endpoint has one empty set, so that a slice shows that there are none.
func podSets(in *Input) []*endpointSet {
	if in.Service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var out []*endpointSet
	for _, f := range families(in.Service) {
		sets := setsOf(f)
		for _, pod := range in.Pods {
			addr, ok := address(pod, f)
			if !ok || ended(pod) {
				continue
			}
			e := podEndpoint(in.Service, pod, in.Zone)
			e.Addresses = []string{addr.String()}
			sets.add(slicePorts(in.Service, pod), e)
		}
		out = append(out, sets.sorted(true)...)
	}
	return out
}

// podEndpoint is the pod's endpoint but for its address (EP-01, EP-03).
func podEndpoint(svc *corev1.Service, pod *corev1.Pod, zone func(string) string) discoveryv1.Endpoint {
	serves, ends := serving(pod), terminating(pod)
	ready := svc.Spec.PublishNotReadyAddresses || (serves && !ends)
	e := discoveryv1.Endpoint{
		Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serves, Terminating: &ends},
		TargetRef:  podReference(pod),
	}
	if name := hostname(svc, pod); name != "" {
		e.Hostname = &name
	}
	if node := pod.Spec.NodeName; node != "" {
		e.NodeName = &node
		if zone != nil {
			if z := zone(node); z != "" {
				e.Zone = &z
			}
		}
	}
	e.Hints = Hints(svc, &e)
	return e
}

// slicePorts are the Service's ports as this pod answers them. A named target
// that the pod hasn't is left out; a pod that has none of them is listed all the
// same, without ports: a headless Service's names don't need any.
func slicePorts(svc *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, 0, len(svc.Spec.Ports))
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		number, ok := targetPort(sp, pod)
		if !ok {
			continue
		}
		name, proto := sp.Name, protocol(sp.Protocol)
		out = append(out, discoveryv1.EndpointPort{Name: &name, Port: &number, Protocol: &proto, AppProtocol: sp.AppProtocol})
	}
	return out
}

// sliceLabels are the source's labels with those of the API in their right
// state: whatever the source says about them doesn't count.
func sliceLabels(source map[string]string, svc *corev1.Service, manager string) map[string]string {
	out := maps.Clone(source)
	if out == nil {
		out = map[string]string{}
	}
	delete(out, corev1.IsHeadlessService)
	if headless(svc) {
		out[corev1.IsHeadlessService] = ""
	}
	out[discoveryv1.LabelServiceName] = svc.Name
	out[discoveryv1.LabelManagedBy] = manager
	return out
}

func headless(svc *corev1.Service) bool {
	return svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone
}
