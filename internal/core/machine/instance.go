package machine

import (
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Finalizers of ours, named as KubeVirt's, whose meaning they have.
const (
	// MachineFinalizer keeps a VirtualMachine, and so the addresses it holds, until
	// its instance is gone.
	MachineFinalizer = kubevirtv1.VirtualMachineControllerFinalizer
	// InstanceFinalizer keeps an instance until its pod, and so its guest, is gone.
	InstanceFinalizer = kubevirtv1.VirtualMachineInstanceFinalizer
)

// InstanceFor makes the instance that a VirtualMachine's template describes. It
// bears the machine's name, so there is one at most, and the machine's claims.
func InstanceFor(vm *kubevirtv1.VirtualMachine) *kubevirtv1.VirtualMachineInstance {
	template := vm.Spec.Template
	vmi := &kubevirtv1.VirtualMachineInstance{
		TypeMeta: metav1.TypeMeta{
			APIVersion: kubevirtv1.GroupVersion.String(),
			Kind:       kubevirtv1.VirtualMachineInstanceGroupVersionKind.Kind,
		},
		ObjectMeta: metav1.ObjectMeta{
			Name:            vm.Name,
			Namespace:       vm.Namespace,
			Labels:          maps.Clone(template.ObjectMeta.Labels),
			Annotations:     maps.Clone(template.ObjectMeta.Annotations),
			Finalizers:      []string{InstanceFinalizer},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(vm, kubevirtv1.VirtualMachineGroupVersionKind)},
		},
		Spec: *template.Spec.DeepCopy(),
	}
	if vmi.Annotations == nil {
		vmi.Annotations = map[string]string{}
	}
	delete(vmi.Annotations, AddressesAnnotation) // a claim is the machine's, not the template's
	delete(vmi.Annotations, MACAnnotation)
	copyClaims(vmi.Annotations, vm.Annotations)
	vmi.Annotations[kubevirtv1.VirtualMachineGenerationAnnotation] = strconv.FormatInt(vm.Generation, 10)
	if vmi.Spec.Domain.Firmware == nil {
		vmi.Spec.Domain.Firmware = &kubevirtv1.Firmware{}
	}
	vmi.Spec.Domain.Firmware.UUID = FirmwareUUID(vmi)
	SetInstanceDefaults(vmi)
	return vmi
}

// IsOwnedBy says whether the instance is the one that vm's controller made, not
// one of the same name that was there before.
func IsOwnedBy(vmi *kubevirtv1.VirtualMachineInstance, vm *kubevirtv1.VirtualMachine) bool {
	return metav1.IsControlledBy(vmi, vm)
}

func copyClaims(to, from map[string]string) {
	for _, key := range []string{AddressesAnnotation, MACAnnotation} {
		if value, ok := from[key]; ok {
			to[key] = value
		}
	}
}

// Topology is the number of sockets, of cores in each, and of threads in each
// core. What is unset is 1; where all is unset, there are as many sockets as
// CPUs are requested, or else allowed.
func Topology(spec *kubevirtv1.VirtualMachineInstanceSpec) kubevirtv1.CPUTopology {
	t := kubevirtv1.CPUTopology{Sockets: 1, Cores: 1, Threads: 1}
	if cpu := spec.Domain.CPU; cpu != nil {
		t.Sockets, t.Cores, t.Threads = max(1, cpu.Sockets), max(1, cpu.Cores), max(1, cpu.Threads)
		if cpu.Sockets+cpu.Cores+cpu.Threads > 0 {
			return t
		}
	}
	for _, list := range []corev1.ResourceList{spec.Domain.Resources.Requests, spec.Domain.Resources.Limits} {
		if q, ok := list[corev1.ResourceCPU]; ok && q.Sign() > 0 {
			t.Sockets = uint32(min(q.Value(), maxVCPUs+1)) // Value rounds up
			break
		}
	}
	return t
}

// GuestMemory is what the guest has: memory.guest, or else the request, or else
// the limit.
func GuestMemory(spec *kubevirtv1.VirtualMachineInstanceSpec) resource.Quantity {
	_, memory := guestMemory(&spec.Domain, nil)
	return memory
}

// guestMemory also says which field it comes from.
func guestMemory(domain *kubevirtv1.DomainSpec, path *field.Path) (*field.Path, resource.Quantity) {
	at := func(names ...string) *field.Path {
		if path == nil {
			return nil
		}
		return path.Child(names[0], names[1:]...)
	}
	if domain.Memory != nil && domain.Memory.Guest != nil {
		return at("memory", "guest"), *domain.Memory.Guest
	}
	if q, ok := domain.Resources.Requests[corev1.ResourceMemory]; ok {
		return at("resources", "requests", "memory"), q
	}
	return at("resources", "limits", "memory"), domain.Resources.Limits[corev1.ResourceMemory]
}

// ContainerPorts are the ports of the guest that Services may name.
func ContainerPorts(spec *kubevirtv1.VirtualMachineInstanceSpec) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for _, nic := range spec.Domain.Devices.Interfaces {
		for _, p := range nic.Ports {
			protocol := corev1.Protocol(p.Protocol)
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			out = append(out, corev1.ContainerPort{Name: p.Name, Protocol: protocol, ContainerPort: p.Port})
		}
	}
	return out
}
