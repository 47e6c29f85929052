package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// family is what all slices of one Service have in common.
type family struct {
	namespace, service string
	seed               string // the owner's UID: names of slices are made from it
	labels             map[string]string
	owner              metav1.OwnerReference
	taken              func(string) bool
	trigger            time.Time
	limit              int
}

// plan compares what the slices should hold with what exists.
func (f *family) plan(sets []*endpointSet, existing []*discoveryv1.EndpointSlice) Plan {
	limit := f.limit
	if limit <= 0 {
		limit = DefaultLimit
	}
	var p Plan
	homes, surplus := assign(sets, existing)
	p.Delete = surplus
	used := map[string]bool{}
	for _, slice := range existing {
		used[slice.Name] = true
	}
	for i, set := range sets {
		bins := pack(set, homes[i], limit)
		kept := map[string]bool{}
		for _, b := range bins {
			switch {
			case b.slice == nil:
				p.Create = append(p.Create, f.create(set, b, used))
			case b.dirty || !f.sameFrame(b.slice, set):
				kept[b.slice.Name] = true
				p.Update = append(p.Update, f.update(set, b))
			default:
				kept[b.slice.Name] = true
			}
		}
		for _, slice := range homes[i] {
			if !kept[slice.Name] {
				p.Delete = append(p.Delete, slice)
			}
		}
	}
	growFirst(p.Update, existing)
	return p
}

// assign gives each set the existing slices that have its family and ports. A
// set that has none takes over all slices of a list of ports that no set wants
// any more: when a Service's ports change, each slice is then written once, and
// readers never see both or neither. What is left over is to be deleted.
func assign(sets []*endpointSet, existing []*discoveryv1.EndpointSlice) ([][]*discoveryv1.EndpointSlice, []*discoveryv1.EndpointSlice) {
	type frame struct {
		address discoveryv1.AddressType
		ports   string
	}
	byFrame := map[frame][]*discoveryv1.EndpointSlice{}
	for _, slice := range slices.SortedFunc(slices.Values(existing), byName) {
		if slice.DeletionTimestamp != nil {
			continue // it is leaving; its name stays taken until it is gone
		}
		k := frame{slice.AddressType, portsKey(slice.Ports)}
		byFrame[k] = append(byFrame[k], slice)
	}
	homes := make([][]*discoveryv1.EndpointSlice, len(sets))
	for i, set := range sets {
		k := frame{set.address, portsKey(set.ports)}
		homes[i] = byFrame[k]
		delete(byFrame, k)
	}
	free := slices.SortedFunc(maps.Keys(byFrame), func(a, b frame) int {
		return cmp.Or(cmp.Compare(a.address, b.address), cmp.Compare(a.ports, b.ports))
	})
	for i, set := range sets {
		at := slices.IndexFunc(free, func(k frame) bool { return k.address == set.address })
		if len(homes[i]) > 0 || at < 0 {
			continue
		}
		homes[i] = byFrame[free[at]]
		free = slices.Delete(free, at, at+1)
	}
	var surplus []*discoveryv1.EndpointSlice
	for _, k := range free {
		surplus = append(surplus, byFrame[k]...)
	}
	return homes, surplus
}

func byName(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) }

// growFirst puts updates that add endpoints before those that take some away.
func growFirst(updates, existing []*discoveryv1.EndpointSlice) {
	before := map[string]int{}
	for _, slice := range existing {
		before[slice.Name] = len(slice.Endpoints)
	}
	slices.SortStableFunc(updates, func(a, b *discoveryv1.EndpointSlice) int {
		return cmp.Compare(len(b.Endpoints)-before[b.Name], len(a.Endpoints)-before[a.Name])
	})
}

// create makes a new slice.
func (f *family) create(set *endpointSet, b *bin, used map[string]bool) *discoveryv1.EndpointSlice {
	name := sliceName(f.service, f.seed, set.address, func(name string) bool {
		return used[name] || (f.taken != nil && f.taken(name))
	})
	used[name] = true
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: f.namespace, Name: name},
		AddressType: set.address,
	}
	f.write(slice, set, b)
	return slice
}

// update makes the slice's next version.
func (f *family) update(set *endpointSet, b *bin) *discoveryv1.EndpointSlice {
	slice := b.slice.DeepCopy()
	slice.ManagedFields = nil // the server keeps its own
	f.write(slice, set, b)
	return slice
}

// write sets all that is ours in a slice; others' annotations stay.
func (f *family) write(slice *discoveryv1.EndpointSlice, set *endpointSet, b *bin) {
	slice.Labels = maps.Clone(f.labels)
	slice.OwnerReferences = []metav1.OwnerReference{f.owner}
	slice.Annotations = withTrigger(slice.Annotations, f.trigger)
	slice.Ports = append([]discoveryv1.EndpointPort{}, set.ports...)
	slice.Endpoints = make([]discoveryv1.Endpoint, 0, len(b.ids))
	for _, id := range slices.Sorted(slices.Values(b.ids)) {
		slice.Endpoints = append(slice.Endpoints, set.endpoints[id])
	}
}

// sameFrame compares what a slice has besides its endpoints. Ports in another
// order are the same.
func (f *family) sameFrame(slice *discoveryv1.EndpointSlice, set *endpointSet) bool {
	return portsKey(slice.Ports) == portsKey(set.ports) &&
		equality.Semantic.DeepEqual(slice.Labels, f.labels) &&
		equality.Semantic.DeepEqual(slice.OwnerReferences, []metav1.OwnerReference{f.owner})
}

// withTrigger records the time of the change that caused a write (EP-07), from
// which readers compute how long it took to reach them. An older time would say
// something wrong about this write, so an unknown one removes it.
func withTrigger(annotations map[string]string, t time.Time) map[string]string {
	if t.IsZero() {
		delete(annotations, corev1.EndpointsLastChangeTriggerTime)
		return annotations
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[corev1.EndpointsLastChangeTriggerTime] = t.UTC().Format(time.RFC3339Nano)
	return annotations
}
