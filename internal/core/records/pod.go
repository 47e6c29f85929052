package records

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// KubeVirt marks the pods of virtual machines so, and so do we. The label has the
// machine's host name, which several may share, the annotation its own.
const (
	MachineLabel      = "vm.kubevirt.io/name"
	machineAnnotation = "kubevirt.io/domain"
)

// Pod is what DNS knows of a pod.
type Pod struct {
	Name        types.NamespacedName
	Addrs       []netip.Addr
	Machine     string // the virtual machine that runs in it
	HostNetwork bool   // the addresses are the node's, and so others' too
}

// FromPod gives nil for a pod without an address and for one whose end has come. A
// machine counts while its pod runs, also while it is being shut down.
func FromPod(pod *corev1.Pod) *Pod {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	p := &Pod{Name: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, HostNetwork: pod.Spec.HostNetwork}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			p.Addrs = append(p.Addrs, a.Unmap().WithZone(""))
		}
	}
	if len(p.Addrs) == 0 {
		return nil
	}
	if pod.Status.Phase == corev1.PodRunning {
		if label := pod.Labels[MachineLabel]; label != "" {
			p.Machine = cmp.Or(pod.Annotations[machineAnnotation], label)
		}
	}
	return p
}

func (p *Pod) equal(o *Pod) bool {
	if p == nil || o == nil {
		return p == o
	}
	return p.Name == o.Name && p.Machine == o.Machine && p.HostNetwork == o.HostNetwork && slices.Equal(p.Addrs, o.Addrs)
}

// ReplacePods says that these pods are all there are. Until it is called the names that
// come from pods are unknown.
func (z *Zone) ReplacePods(pods []*Pod) {
	z.table.podsKnown = true
	e := new(edit)
	there := make(map[types.NamespacedName]bool, len(pods))
	for _, p := range pods {
		there[p.Name] = true
		z.putPod(e, p.Name, p)
	}
	for name := range z.pods {
		if !there[name] {
			z.putPod(e, name, nil)
		}
	}
}

// UpdatePod takes a pod, nil for one that is gone, and reports whether that is news.
func (z *Zone) UpdatePod(name types.NamespacedName, p *Pod) bool { return z.putPod(new(edit), name, p) }

func (z *Zone) putPod(e *edit, name types.NamespacedName, p *Pod) bool {
	old := z.pods[name]
	if p.equal(old) {
		return false
	}
	names := append(z.namesOf(old), z.namesOf(p)...)
	slices.Sort(names)
	names = slices.Compact(names)
	before := z.podOwners(names)
	if old != nil {
		delete(z.pods, name)
		for _, n := range z.namesOf(old) {
			if z.named[n] = slices.DeleteFunc(z.named[n], func(o *Pod) bool { return o == old }); len(z.named[n]) == 0 {
				delete(z.named, n)
			}
		}
		z.removeClient(e, old)
		z.count(e, name.Namespace, -1)
	}
	if p != nil {
		z.pods[name] = p
		for _, n := range z.namesOf(p) {
			z.named[n] = append(z.named[n], p)
		}
		z.addClient(e, p)
		z.count(e, name.Namespace, 1)
	}
	z.exchange(e, before, z.podOwners(names))
	return true
}

// OfMachines gives the names of virtual machines that run in these pods, and what points
// to them.
func OfMachines(domain string, pods []*Pod) ([]Owner, error) {
	z, err := NewZone(Config{Domain: domain})
	if err != nil {
		return nil, err
	}
	z.ReplacePods(pods)
	return z.podOwners(slices.Sorted(maps.Keys(z.named))), nil
}

// namesOf are the names that exist because of a pod: its machine's, which several pods
// have while the machine moves to another node, and where pods must exist to have names
// those of its addresses.
func (z *Zone) namesOf(p *Pod) (out []Name) {
	if p == nil {
		return nil
	}
	if p.Machine != "" && !strings.Contains(p.Machine, ".") { // a label, not two
		if n, ok := under(z.table.machines, p.Machine, p.Name.Namespace); ok {
			out = append(out, n)
		}
	}
	if z.table.podMode == PodsExisting {
		for _, a := range p.Addrs {
			if n, ok := under(z.table.pods, dashed(a), p.Name.Namespace); ok {
				out = append(out, n)
			}
		}
	}
	return out
}

// podOwners gives what names of pods and machines hold, and what points to machines.
func (z *Zone) podOwners(names []Name) (out []Owner) {
	for _, n := range names {
		o := Owner{Name: n}
		for _, p := range z.named[n] {
			o.Addrs = append(o.Addrs, p.Addrs...)
		}
		o.Addrs = distinct(o.Addrs, netip.Addr.Compare)
		if !n.IsUnder(z.table.machines) { // one address, the one that is spelt
			label := n[1 : 1+int(n[0])]
			o.Addrs = slices.DeleteFunc(o.Addrs, func(a netip.Addr) bool { return dashed(a) != string(label) })
		}
		if len(o.Addrs) == 0 {
			continue
		}
		out = append(out, o)
		if n.IsUnder(z.table.machines) {
			for _, a := range o.Addrs {
				out = append(out, Owner{Name: ReverseName(a), Hosts: []Name{n}})
			}
		}
	}
	return out
}
