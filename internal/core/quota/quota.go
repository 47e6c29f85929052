// Package quota says what objects cost: which of the resources that a ResourceQuota can
// limit an object uses, and how many.
//
// In: objects of the API. Out: amounts by name, as in spec.hard. Admission charges by
// it, the quota controller counts by it; both must come to the same.
package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// countPrefix begins the names of object counts: count/<resource>.<group>.
const countPrefix = "count/"

// Amounts are how much of each resource is used.
type Amounts map[corev1.ResourceName]int64

// Services, pods and the short names below were there before count/.
var services = schema.GroupResource{Resource: "services"}

// short are the resources that may be named without count/.
var short = map[corev1.ResourceName]schema.GroupResource{
	corev1.ResourceServices:               services,
	corev1.ResourceServicesNodePorts:      services,
	corev1.ResourceServicesLoadBalancers:  services,
	corev1.ResourcePods:                   {Resource: "pods"},
	corev1.ResourceConfigMaps:             {Resource: "configmaps"},
	corev1.ResourceSecrets:                {Resource: "secrets"},
	corev1.ResourceReplicationControllers: {Resource: "replicationcontrollers"},
	corev1.ResourcePersistentVolumeClaims: {Resource: "persistentvolumeclaims"},
	corev1.ResourceQuotas:                 {Resource: "resourcequotas"},
}

// CountName is the name under which any object of a resource is counted.
func CountName(gr schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName(countPrefix + gr.String())
}

// Counted is the resource whose objects use what name names. It is false for what isn't
// counted, such as processor time.
func Counted(name corev1.ResourceName) (schema.GroupResource, bool) {
	if gr, ok := short[name]; ok {
		return gr, true
	}
	rest, ok := strings.CutPrefix(string(name), countPrefix)
	if !ok || rest == "" {
		return schema.GroupResource{}, false
	}
	gr := schema.ParseGroupResource(rest)
	return gr, !Exempt(gr)
}

// Exempt are the resources that no quota limits, as upstream: Events come and go by
// themselves.
func Exempt(gr schema.GroupResource) bool {
	return gr.Resource == "events" && (gr.Group == "" || gr.Group == "events.k8s.io")
}

// Names are the names under which objects of a resource may be limited.
func Names(gr schema.GroupResource) []corev1.ResourceName {
	names := []corev1.ResourceName{CountName(gr)}
	for name, of := range short {
		if of == gr {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// OfObject is what one object of a resource uses, where its fields don't matter.
func OfObject(gr schema.GroupResource) Amounts {
	out := Amounts{}
	for _, name := range Names(gr) {
		out[name] = 1
	}
	return out
}

// OfService is what a Service uses. Node ports count one by one; those of a load
// balancer also, unless it says that it wants none and names none.
func OfService(s *corev1.Service) Amounts {
	out := Amounts{corev1.ResourceServices: 1, CountName(services): 1}
	switch s.Spec.Type {
	case corev1.ServiceTypeNodePort:
		out[corev1.ResourceServicesNodePorts] = int64(len(s.Spec.Ports))
	case corev1.ServiceTypeLoadBalancer:
		out[corev1.ResourceServicesLoadBalancers] = 1
		for _, p := range s.Spec.Ports {
			if a := s.Spec.AllocateLoadBalancerNodePorts; a == nil || *a || p.NodePort > 0 {
				out[corev1.ResourceServicesNodePorts]++
			}
		}
	}
	return out
}

// OfPod is what a pod uses: one that has ended occupies only storage.
func OfPod(p *corev1.Pod) Amounts {
	out := Amounts{CountName(short[corev1.ResourcePods]): 1}
	if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
		out[corev1.ResourcePods] = 1
	}
	return out
}

// Of is what an object of a resource uses.
func Of(gr schema.GroupResource, obj any) Amounts {
	switch o := obj.(type) {
	case *corev1.Service:
		return OfService(o)
	case *corev1.Pod:
		return OfPod(o)
	}
	return OfObject(gr)
}

// Added is what a write of an object of a resource adds: old is nil where it is made. What
// a change frees isn't negative here, for it is free only when it is stored.
func Added(gr schema.GroupResource, obj, old any) Amounts {
	out := Of(gr, obj)
	if old == nil {
		return out
	}
	for name, n := range Of(gr, old) {
		if out[name] -= n; out[name] <= 0 {
			delete(out, name)
		}
	}
	return out
}

// List is amounts as the API writes them.
func (a Amounts) List() corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, n := range a {
		out[name] = *resource.NewQuantity(n, resource.DecimalSI)
	}
	return out
}
