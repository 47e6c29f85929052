package node

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/machine"
)

// addresses reads the pod's addresses from its annotation, the primary first.
func addresses(pod *corev1.Pod) []netip.Addr {
	var out []netip.Addr
	for s := range strings.SplitSeq(pod.Annotations[machine.AddressesAnnotation], ",") {
		if a, err := netip.ParseAddr(strings.TrimSpace(s)); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// waiting is the status of a pod whose workload isn't there yet.
func waiting(pod *corev1.Pod, hosts []netip.Addr, reason, message string, now time.Time) corev1.PodStatus {
	s := base(pod, hosts)
	s.Phase, s.Reason, s.Message = corev1.PodPending, reason, message
	state := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	s.ContainerStatuses = containers(pod, state, "", false)
	setReady(pod, &s, false, reason, message, now)
	return s
}

// failed is the status of a pod whose workload is gone for good.
func failed(pod *corev1.Pod, hosts []netip.Addr, reason, message string, now time.Time) corev1.PodStatus {
	return observed(pod, hosts, Observation{Phase: corev1.PodFailed, Reason: reason, Message: message, Ended: now}, now)
}

// observed is the status of a pod whose workload runs or has ended.
func observed(pod *corev1.Pod, hosts []netip.Addr, o Observation, now time.Time) corev1.PodStatus {
	s := base(pod, hosts)
	s.Phase = o.Phase
	if addrs := addresses(pod); len(addrs) > 0 {
		s.PodIP, s.PodIPs = addrs[0].String(), nil
		for _, a := range addrs {
			s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: a.String()})
		}
	}
	var state corev1.ContainerState
	reason, message := o.Reason, o.Message
	if o.Phase == corev1.PodRunning {
		state.Running = &corev1.ContainerStateRunning{StartedAt: stamp(o.Started)}
	} else {
		state.Terminated = &corev1.ContainerStateTerminated{
			Reason: o.Reason, Message: o.Message, StartedAt: stamp(o.Started), FinishedAt: stamp(o.Ended), ContainerID: o.ID,
		}
		reason = "PodCompleted" // the word a kubelet uses
		if o.Phase == corev1.PodFailed {
			state.Terminated.ExitCode = 1
			reason = "PodFailed"
			s.Reason, s.Message = o.Reason, o.Message
		}
	}
	ready := o.Ready && o.Phase == corev1.PodRunning
	s.ContainerStatuses = containers(pod, state, o.ID, ready)
	for _, c := range o.Conditions {
		setCondition(pod, &s, c, now)
	}
	setReady(pod, &s, ready, reason, message, now)
	return s
}

// base is what all phases have. Conditions of others are kept: the scheduler's,
// and readiness gates that controllers set.
func base(pod *corev1.Pod, hosts []netip.Addr) corev1.PodStatus {
	s := *pod.Status.DeepCopy()
	s.Reason, s.Message = "", ""
	s.ObservedGeneration = pod.Generation
	if len(hosts) > 0 {
		s.HostIP, s.HostIPs = hosts[0].String(), nil
		for _, h := range hosts {
			s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: h.String()})
		}
	}
	return s
}

func containers(pod *corev1.Pod, state corev1.ContainerState, id string, ready bool) []corev1.ContainerStatus {
	started := state.Running != nil
	var out []corev1.ContainerStatus
	for _, c := range pod.Spec.Containers {
		out = append(out, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: id, Ready: ready, Started: &started, State: state,
		})
	}
	return out
}

// setReady writes the conditions that every pod has. Ready needs the workload and
// all readiness gates (KEP-580).
func setReady(pod *corev1.Pod, s *corev1.PodStatus, ready bool, reason, message string, now time.Time) {
	if s.StartTime == nil {
		t := metav1.NewTime(now)
		s.StartTime = &t
	}
	if ready {
		reason, message = "", ""
	}
	setCondition(pod, s, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, now)
	setCondition(pod, s, corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}, now)
	verdict := corev1.PodCondition{Status: corev1.ConditionFalse, Reason: reason, Message: message}
	if ready {
		verdict.Status = corev1.ConditionTrue
	}
	verdict.Type = corev1.ContainersReady
	setCondition(pod, s, verdict, now)
	if closed := closedGates(pod, s); ready && len(closed) > 0 {
		verdict.Status, verdict.Reason = corev1.ConditionFalse, "ReadinessGatesNotReady"
		verdict.Message = "these readiness gates aren't true: " + strings.Join(closed, ", ")
	}
	verdict.Type = corev1.PodReady
	setCondition(pod, s, verdict, now)
}

func closedGates(pod *corev1.Pod, s *corev1.PodStatus) []string {
	var closed []string
	for _, g := range pod.Spec.ReadinessGates {
		open := slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == g.ConditionType && c.Status == corev1.ConditionTrue
		})
		if !open {
			closed = append(closed, string(g.ConditionType))
		}
	}
	return closed
}

// setCondition writes a condition; its transition time changes with its status only.
func setCondition(pod *corev1.Pod, s *corev1.PodStatus, c corev1.PodCondition, now time.Time) {
	c.ObservedGeneration = pod.Generation
	c.LastTransitionTime = metav1.NewTime(now)
	for i, have := range s.Conditions {
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		c.LastProbeTime = have.LastProbeTime
		s.Conditions[i] = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}

// stamp is a time as the API keeps it; zero stays zero.
func stamp(t time.Time) metav1.Time {
	if t.IsZero() {
		return metav1.Time{}
	}
	return metav1.NewTime(t.Truncate(time.Second))
}
