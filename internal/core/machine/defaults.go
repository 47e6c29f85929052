package machine

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// SetDefaults fills in what a VirtualMachine leaves unset and what doesn't
// depend on its instance. It is idempotent and gives the same result at each
// call, so it may run whenever an object is decoded.
func SetDefaults(vm *kubevirtv1.VirtualMachine) {
	if vm.Spec.Template != nil {
		setSpecDefaults(&vm.Spec.Template.Spec)
	}
	if vm.Status.PrintableStatus == "" {
		vm.Status.PrintableStatus = kubevirtv1.VirtualMachineStatusStopped
	}
}

// SetInstanceDefaults does the same for an instance, and adds what KubeVirt adds
// to instances only: the grace period, a disk for each volume that has none, and
// the one interface on the pod network.
func SetInstanceDefaults(vmi *kubevirtv1.VirtualMachineInstance) {
	setSpecDefaults(&vmi.Spec)
	spec := &vmi.Spec
	if spec.TerminationGracePeriodSeconds == nil {
		grace := kubevirtv1.DefaultGracePeriodSeconds
		spec.TerminationGracePeriodSeconds = &grace
	}
	devices := &spec.Domain.Devices
	for _, volume := range spec.Volumes {
		if !slices.ContainsFunc(devices.Disks, func(d kubevirtv1.Disk) bool { return d.Name == volume.Name }) {
			device := kubevirtv1.DiskDevice{Disk: &kubevirtv1.DiskTarget{Bus: kubevirtv1.DiskBusVirtio}}
			devices.Disks = append(devices.Disks, kubevirtv1.Disk{Name: volume.Name, DiskDevice: device})
		}
	}
	without := devices.AutoattachPodInterface != nil && !*devices.AutoattachPodInterface
	if len(devices.Interfaces) == 0 && len(spec.Networks) == 0 && !without {
		devices.Interfaces = []kubevirtv1.Interface{*kubevirtv1.DefaultBridgeNetworkInterface()}
		spec.Networks = []kubevirtv1.Network{*kubevirtv1.DefaultPodNetwork()}
	}
}

func setSpecDefaults(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	for i := range spec.Domain.Devices.Disks {
		kubevirtv1.SetDefaults_DiskDevice(&spec.Domain.Devices.Disks[i].DiskDevice)
	}
	for i := range spec.Domain.Devices.Interfaces {
		for j := range spec.Domain.Devices.Interfaces[i].Ports {
			if p := &spec.Domain.Devices.Interfaces[i].Ports[j]; p.Protocol == "" {
				p.Protocol = "TCP"
			}
		}
	}
	setProbeDefaults(spec.ReadinessProbe)
	setProbeDefaults(spec.LivenessProbe)
}

// setProbeDefaults gives a probe the numbers that pods' probes have, and an
// httpGet its scheme and path. Negative numbers are left for validation.
func setProbeDefaults(p *kubevirtv1.Probe) {
	if p == nil {
		return
	}
	for _, d := range []struct {
		value *int32
		unset int32
	}{
		{&p.TimeoutSeconds, 1},
		{&p.PeriodSeconds, 10},
		{&p.SuccessThreshold, 1},
		{&p.FailureThreshold, 3},
	} {
		if *d.value == 0 {
			*d.value = d.unset
		}
	}
	if get := p.HTTPGet; get != nil {
		if get.Scheme == "" {
			get.Scheme = "HTTP"
		}
		if get.Path == "" {
			get.Path = "/"
		}
	}
}

// KeepClaims gives an updated object the address and hardware address of its
// old version where the update leaves them out, as `kubectl replace` with the
// original manifest does: they belong to the object, not to the manifest.
func KeepClaims(updated, old metav1.Object) {
	for _, key := range []string{AddressesAnnotation, MACAnnotation} {
		was, had := old.GetAnnotations()[key]
		if _, has := updated.GetAnnotations()[key]; has || !had {
			continue
		}
		annotations := updated.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[key] = was
		updated.SetAnnotations(annotations)
	}
}
