package machine

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Conditions of an instance that KubeVirt has no constant for.
const podScheduled = kubevirtv1.VirtualMachineInstanceConditionType(corev1.PodScheduled)

// InstanceStatus is the status of an instance whose pod is pod. nil means that
// there is no pod: not yet, while the phase is unset or Pending; else no more.
// Only the phases Succeeded and Failed are final, and no phase is gone back from.
func InstanceStatus(vmi *kubevirtv1.VirtualMachineInstance, pod *corev1.Pod, now time.Time) kubevirtv1.VirtualMachineInstanceStatus {
	status := *vmi.Status.DeepCopy()
	phase, reason := instancePhase(vmi, pod)
	status.Reason = reason
	if phase != status.Phase {
		status.Phase = phase
		status.PhaseTransitionTimestamps = append(status.PhaseTransitionTimestamps,
			kubevirtv1.VirtualMachineInstancePhaseTransitionTimestamp{Phase: phase, PhaseTransitionTimestamp: metav1.NewTime(now)})
	}
	status.Conditions = instanceConditions(vmi, pod, phase, now)
	if pod == nil {
		status.ActivePods = nil
		status.Interfaces = nil
		return status
	}
	if pod.Spec.NodeName != "" {
		status.NodeName = pod.Spec.NodeName
	}
	status.ActivePods = map[types.UID]string{pod.UID: pod.Spec.NodeName}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		status.ActivePods = nil
	}
	status.Interfaces = instanceInterfaces(vmi, pod, phase)
	status.QOSClass = nil
	if class := pod.Status.QOSClass; class != "" {
		status.QOSClass = &class
	}
	memory := GuestMemory(&vmi.Spec)
	status.Memory = &kubevirtv1.MemoryStatus{GuestAtBoot: &memory, GuestCurrent: &memory, GuestRequested: &memory}
	topology := Topology(&vmi.Spec)
	status.CurrentCPUTopology = &topology
	return status
}

// phaseOrder is the way of an instance; it goes forward only.
var phaseOrder = []kubevirtv1.VirtualMachineInstancePhase{
	kubevirtv1.VmPhaseUnset, kubevirtv1.Pending, kubevirtv1.Scheduling, kubevirtv1.Scheduled, kubevirtv1.Running,
}

func instancePhase(vmi *kubevirtv1.VirtualMachineInstance, pod *corev1.Pod) (phase kubevirtv1.VirtualMachineInstancePhase, reason string) {
	was := vmi.Status.Phase
	switch {
	case vmi.IsFinal():
		return was, vmi.Status.Reason
	case pod == nil && vmi.IsUnprocessed():
		return kubevirtv1.Pending, ""
	case pod == nil && vmi.DeletionTimestamp != nil:
		return kubevirtv1.Succeeded, ""
	case pod == nil:
		return kubevirtv1.Failed, kubevirtv1.PodNotExistsReason
	}
	switch pod.Status.Phase {
	case corev1.PodSucceeded:
		return kubevirtv1.Succeeded, endReason(pod)
	case corev1.PodFailed:
		return kubevirtv1.Failed, cmp.Or(endReason(pod), pod.Status.Reason, kubevirtv1.GuestNotRunningReason)
	case corev1.PodRunning:
		phase = kubevirtv1.Running
	case corev1.PodUnknown:
		phase = was
	default:
		if phase = kubevirtv1.Scheduling; pod.Spec.NodeName != "" {
			phase = kubevirtv1.Scheduled
		}
	}
	if slices.Index(phaseOrder, phase) < slices.Index(phaseOrder, was) {
		phase = was
	}
	return phase, ""
}

// endReason tells the end of a guest whose pod was taken away, as by a node that is
// drained or leaves, from one of its own.
func endReason(pod *corev1.Pod) string {
	if pod.DeletionTimestamp != nil {
		return kubevirtv1.PodTerminatingReason
	}
	return ""
}

// takenAway says whether an instance ended because somebody removed its pod: neither
// the guest nor its start failed.
func takenAway(vmi *kubevirtv1.VirtualMachineInstance) bool {
	return vmi.IsFinal() && (vmi.Status.Reason == kubevirtv1.PodTerminatingReason || vmi.Status.Reason == kubevirtv1.PodNotExistsReason)
}

func instanceConditions(vmi *kubevirtv1.VirtualMachineInstance, pod *corev1.Pod, phase kubevirtv1.VirtualMachineInstancePhase, now time.Time) []kubevirtv1.VirtualMachineInstanceCondition {
	wanted := []kubevirtv1.VirtualMachineInstanceCondition{
		readyCondition(pod, phase),
		{
			Type: kubevirtv1.VirtualMachineInstanceIsMigratable, Status: corev1.ConditionFalse,
			Reason: kubevirtv1.VirtualMachineInstanceReasonNotMigratable, Message: "live migration isn't built yet",
		},
	}
	for _, c := range []struct {
		pod  corev1.PodConditionType
		copy func(corev1.PodCondition) (kubevirtv1.VirtualMachineInstanceCondition, bool)
	}{
		{corev1.PodScheduled, unscheduledCondition},
		{kubevirtv1.VirtualMachineUnpaused, pausedCondition},
		{AcceleratedCondition, acceleratedCondition},
		{AcceleratedCondition, emulationCondition},
	} {
		condition, ok := podCondition(pod, c.pod)
		if !ok || c.pod == corev1.PodScheduled && pod.Spec.NodeName != "" {
			continue // a pod with a node keeps the scheduler's old complaint where nobody takes it away
		}
		if copied, ok := c.copy(condition); ok {
			copied.Reason, copied.Message = condition.Reason, condition.Message
			wanted = append(wanted, copied)
		}
	}
	for i := range wanted {
		wanted[i].LastTransitionTime = metav1.NewTime(now)
		for _, old := range vmi.Status.Conditions {
			if old.Type == wanted[i].Type && old.Status == wanted[i].Status {
				wanted[i].LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	return wanted
}

func readyCondition(pod *corev1.Pod, phase kubevirtv1.VirtualMachineInstancePhase) kubevirtv1.VirtualMachineInstanceCondition {
	no := func(reason, message string) kubevirtv1.VirtualMachineInstanceCondition {
		return kubevirtv1.VirtualMachineInstanceCondition{
			Type: kubevirtv1.VirtualMachineInstanceReady, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		}
	}
	ready, has := podCondition(pod, corev1.PodReady)
	switch {
	case pod == nil:
		return no(kubevirtv1.PodNotExistsReason, "the instance has no pod")
	case pod.DeletionTimestamp != nil:
		return no(kubevirtv1.PodTerminatingReason, "the instance's pod is being stopped")
	case phase != kubevirtv1.Running:
		return no(kubevirtv1.GuestNotRunningReason, "the guest is not running")
	case !has:
		return no(kubevirtv1.PodConditionMissingReason, "the node hasn't said yet whether the guest is ready")
	}
	return kubevirtv1.VirtualMachineInstanceCondition{
		Type: kubevirtv1.VirtualMachineInstanceReady, Status: ready.Status, Reason: ready.Reason, Message: ready.Message,
	}
}

// unscheduledCondition tells why no node takes the pod; a scheduled pod needs no word.
func unscheduledCondition(c corev1.PodCondition) (kubevirtv1.VirtualMachineInstanceCondition, bool) {
	return kubevirtv1.VirtualMachineInstanceCondition{Type: podScheduled, Status: c.Status}, c.Status == corev1.ConditionFalse
}

func pausedCondition(c corev1.PodCondition) (kubevirtv1.VirtualMachineInstanceCondition, bool) {
	return kubevirtv1.VirtualMachineInstanceCondition{
		Type: kubevirtv1.VirtualMachineInstancePaused, Status: corev1.ConditionTrue,
	}, c.Status == corev1.ConditionFalse
}

func acceleratedCondition(c corev1.PodCondition) (kubevirtv1.VirtualMachineInstanceCondition, bool) {
	return kubevirtv1.VirtualMachineInstanceCondition{Type: AcceleratedCondition, Status: c.Status}, true
}

// emulationCondition says the same in KubeVirt's words, for its clients.
func emulationCondition(c corev1.PodCondition) (kubevirtv1.VirtualMachineInstanceCondition, bool) {
	return kubevirtv1.VirtualMachineInstanceCondition{
		Type: kubevirtv1.VirtualMachineInstanceSoftwareEmulation, Status: corev1.ConditionTrue,
	}, c.Status == corev1.ConditionFalse
}

func instanceInterfaces(vmi *kubevirtv1.VirtualMachineInstance, pod *corev1.Pod, phase kubevirtv1.VirtualMachineInstancePhase) []kubevirtv1.VirtualMachineInstanceNetworkInterface {
	if len(pod.Status.PodIPs) == 0 {
		return nil
	}
	nic := kubevirtv1.VirtualMachineInstanceNetworkInterface{
		Name: "default", MAC: vmi.Annotations[MACAnnotation], InfoSource: "domain", QueueCount: 1, LinkState: "down",
	}
	if specs := vmi.Spec.Domain.Devices.Interfaces; len(specs) > 0 {
		nic.Name = specs[0].Name
		if specs[0].MacAddress != "" {
			nic.MAC = specs[0].MacAddress
		}
	}
	if phase == kubevirtv1.Running {
		nic.LinkState = "up"
	}
	for _, ip := range pod.Status.PodIPs {
		nic.IPs = append(nic.IPs, ip.IP)
	}
	nic.IP = nic.IPs[0]
	return []kubevirtv1.VirtualMachineInstanceNetworkInterface{nic}
}

func podCondition(pod *corev1.Pod, kind corev1.PodConditionType) (corev1.PodCondition, bool) {
	if pod != nil {
		for _, c := range pod.Status.Conditions {
			if c.Type == kind {
				return c, true
			}
		}
	}
	return corev1.PodCondition{}, false
}
