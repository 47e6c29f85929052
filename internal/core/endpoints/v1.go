//lint:file-ignore SA1019 Endpoints is deprecated, and served and kept all the same (EP-04).

package endpoints

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// Capacity is how many addresses an Endpoints object holds at most. Beyond
	// it the object grows too large for etcd and for every watcher.
	Capacity = 1000
	// truncated is the value of the annotation that says that some are missing.
	truncated = "truncated"

	// endpointsManagedBy marks an Endpoints object that comes from pods, as
	// Kubernetes' controller does: one that is left without its Service may then
	// be deleted, one made by hand not.
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager   = "endpoint-controller"
)

// ManagedEndpoints says that the object was computed from pods.
func ManagedEndpoints(e *corev1.Endpoints) bool {
	return e.Labels[endpointsManagedBy] == endpointsManager
}

// Endpoints computes the Service's Endpoints object from the pods it selects
// (EP-01, EP-04): the primary family only, unready pods apart, terminating ones
// left out unless the Service publishes what isn't ready.
func Endpoints(svc *corev1.Service, pods []*corev1.Pod) *corev1.Endpoints {
	out := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
		Namespace: svc.Namespace,
		Name:      svc.Name,
		Labels:    endpointsLabels(svc),
	}}
	subsets := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		addr, ok := v1Address(svc, pod)
		if !ok {
			continue
		}
		ports := v1Ports(svc, pod)
		if len(ports) == 0 && !(len(svc.Spec.Ports) == 0 && headless(svc)) {
			continue // v1 has no way to say: an address without ports of these
		}
		key := v1PortsKey(ports)
		subset := subsets[key]
		if subset == nil {
			subset = &corev1.EndpointSubset{Ports: ports}
			subsets[key] = subset
		}
		if svc.Spec.PublishNotReadyAddresses || serving(pod) {
			subset.Addresses = append(subset.Addresses, addr)
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, addr)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(subsets)) {
		subset := subsets[key]
		slices.SortFunc(subset.Addresses, compareAddresses)
		slices.SortFunc(subset.NotReadyAddresses, compareAddresses)
		out.Subsets = append(out.Subsets, *subset)
	}
	if truncate(out.Subsets) {
		out.Annotations = map[string]string{corev1.EndpointsOverCapacity: truncated}
		out.Subsets = slices.DeleteFunc(out.Subsets, func(s corev1.EndpointSubset) bool {
			return len(s.Addresses)+len(s.NotReadyAddresses) == 0 // the API refuses those
		})
	}
	return out
}

// UpdateEndpoints gives the next version of an existing object, or false when it
// says already what it should. Annotations of others stay.
func UpdateEndpoints(current, want *corev1.Endpoints, trigger time.Time) (*corev1.Endpoints, bool) {
	if equality.Semantic.DeepEqual(current.Subsets, want.Subsets) &&
		equality.Semantic.DeepEqual(current.Labels, want.Labels) &&
		current.Annotations[corev1.EndpointsOverCapacity] == want.Annotations[corev1.EndpointsOverCapacity] {
		return nil, false
	}
	next := current.DeepCopy()
	next.ManagedFields = nil // the server keeps its own
	next.Subsets, next.Labels = want.Subsets, want.Labels
	delete(next.Annotations, corev1.EndpointsOverCapacity)
	next.Annotations = withTrigger(next.Annotations, trigger)
	if v, ok := want.Annotations[corev1.EndpointsOverCapacity]; ok {
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[corev1.EndpointsOverCapacity] = v
	}
	return next, true
}

// NewEndpoints adds the trigger time to an object about to be created.
func NewEndpoints(want *corev1.Endpoints, trigger time.Time) *corev1.Endpoints {
	next := want.DeepCopy()
	next.Annotations = withTrigger(next.Annotations, trigger)
	return next
}

func endpointsLabels(svc *corev1.Service) map[string]string {
	out := maps.Clone(svc.Labels)
	if out == nil {
		out = map[string]string{}
	}
	delete(out, corev1.IsHeadlessService)
	if headless(svc) {
		out[corev1.IsHeadlessService] = ""
	}
	out[endpointsManagedBy] = endpointsManager
	return out
}

func v1Address(svc *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	if ended(pod) || (terminating(pod) && !svc.Spec.PublishNotReadyAddresses) {
		return corev1.EndpointAddress{}, false
	}
	ip, ok := primaryAddress(svc, pod)
	if !ok {
		return corev1.EndpointAddress{}, false
	}
	a := corev1.EndpointAddress{IP: ip.String(), Hostname: hostname(svc, pod), TargetRef: podReference(pod)}
	if node := pod.Spec.NodeName; node != "" {
		a.NodeName = &node
	}
	return a, true
}

// primaryAddress: a headless Service that doesn't say its families takes each
// pod's own primary address.
func primaryAddress(svc *corev1.Service, pod *corev1.Pod) (netip.Addr, bool) {
	if _, ok := parse(svc.Spec.ClusterIP); len(svc.Spec.IPFamilies) == 0 && !ok {
		if len(pod.Status.PodIPs) > 0 {
			return parse(pod.Status.PodIPs[0].IP)
		}
		return parse(pod.Status.PodIP)
	}
	return address(pod, families(svc)[0])
}

func v1Ports(svc *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var out []corev1.EndpointPort
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		if number, ok := targetPort(sp, pod); ok {
			out = append(out, corev1.EndpointPort{
				Name: sp.Name, Port: number, Protocol: protocol(sp.Protocol), AppProtocol: sp.AppProtocol,
			})
		}
	}
	slices.SortFunc(out, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return out
}

func v1PortsKey(ports []corev1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		app := ""
		if p.AppProtocol != nil {
			app = *p.AppProtocol
		}
		b.WriteString(p.Name + "/" + strconv.Itoa(int(p.Port)) + "/" + string(p.Protocol) + "/" + app + ",")
	}
	return b.String()
}

func compareAddresses(a, b corev1.EndpointAddress) int {
	x, _ := parse(a.IP)
	y, _ := parse(b.IP)
	return cmp.Or(x.Compare(y), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID), cmp.Compare(a.TargetRef.Name, b.TargetRef.Name))
}

// truncate cuts the subsets down to Capacity and says whether it did: ready
// addresses are kept before others, and each subset keeps its share.
func truncate(subsets []corev1.EndpointSubset) bool {
	total, readyTotal := 0, 0
	for i := range subsets {
		readyTotal += len(subsets[i].Addresses)
		total += len(subsets[i].Addresses) + len(subsets[i].NotReadyAddresses)
	}
	if total <= Capacity {
		return false
	}
	keepReady := min(readyTotal, Capacity)
	share(subsets, keepReady, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.Addresses })
	share(subsets, Capacity-keepReady, func(s *corev1.EndpointSubset) *[]corev1.EndpointAddress { return &s.NotReadyAddresses })
	return true
}

// share leaves keep addresses in all, each subset its part in proportion. It
// cuts where the running sum's part ends, so that rounding adds up exactly.
func share(subsets []corev1.EndpointSubset, keep int, field func(*corev1.EndpointSubset) *[]corev1.EndpointAddress) {
	total := 0
	for i := range subsets {
		total += len(*field(&subsets[i]))
	}
	if total == 0 {
		return
	}
	before, kept := 0, 0
	for i := range subsets {
		list := field(&subsets[i])
		before += len(*list)
		n := before*keep/total - kept
		kept += n
		*list = (*list)[:n:n]
	}
}
