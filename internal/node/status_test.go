package node

import (
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/machine"
)

var (
	t0    = time.Unix(1_000_000, 0)
	hosts = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
)

func testPod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "virt-launcher-vm", UID: "pod-1", Generation: 3,
			Annotations: map[string]string{machine.AddressesAnnotation: "10.245.0.2,fd00:10:245::2"},
		},
		Spec: corev1.PodSpec{
			NodeName: "node-a", Containers: []corev1.Container{{Name: "compute", Image: "portico.dev/qemu"}},
			ReadinessGates: []corev1.PodReadinessGate{{ConditionType: "kubevirt.io/virtual-machine-unpaused"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(t0)},
			{Type: "example.com/other", Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(t0)},
		}},
	}
}

func condition(s corev1.PodStatus, t corev1.PodConditionType) corev1.PodCondition {
	for _, c := range s.Conditions {
		if c.Type == t {
			return c
		}
	}
	return corev1.PodCondition{}
}

// EP-01, VM-05: what the endpoints' controller and people read off a pod.
func TestObserved(t *testing.T) {
	gate := func(s corev1.ConditionStatus) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: "kubevirt.io/virtual-machine-unpaused", Status: s}}
	}
	for _, tc := range []struct {
		name              string
		o                 Observation
		containers, ready corev1.ConditionStatus
		reason            string // of Ready
	}{
		{"ready", Observation{Phase: corev1.PodRunning, Ready: true, Started: t0, Conditions: gate(corev1.ConditionTrue)}, corev1.ConditionTrue, corev1.ConditionTrue, ""},
		{"gate closed", Observation{Phase: corev1.PodRunning, Ready: true, Started: t0, Conditions: gate(corev1.ConditionFalse)}, corev1.ConditionTrue, corev1.ConditionFalse, "ReadinessGatesNotReady"},
		{"probe fails", Observation{Phase: corev1.PodRunning, Reason: "ContainersNotReady", Started: t0}, corev1.ConditionFalse, corev1.ConditionFalse, "ContainersNotReady"},
		{"powered off", Observation{Phase: corev1.PodSucceeded, Ready: true, Started: t0, Ended: t0}, corev1.ConditionFalse, corev1.ConditionFalse, "PodCompleted"},
		{"crashed", Observation{Phase: corev1.PodFailed, Reason: "QEMUFailed", Started: t0, Ended: t0}, corev1.ConditionFalse, corev1.ConditionFalse, "PodFailed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := t0.Add(time.Minute)
			s := observed(testPod(), hosts, tc.o, now)
			if s.Phase != tc.o.Phase || s.HostIP != "192.0.2.1" || len(s.HostIPs) != 2 || s.PodIP != "10.245.0.2" || len(s.PodIPs) != 2 {
				t.Errorf("status %+v", s)
			}
			if c := condition(s, corev1.ContainersReady); c.Status != tc.containers {
				t.Errorf("ContainersReady %+v", c)
			}
			if c := condition(s, corev1.PodReady); c.Status != tc.ready || c.Reason != tc.reason || c.ObservedGeneration != 3 {
				t.Errorf("Ready %+v", c)
			}
			if c := condition(s, "example.com/other"); c.Status != corev1.ConditionTrue {
				t.Error("a condition of another writer is gone")
			}
			if c := condition(s, corev1.PodScheduled); !c.LastTransitionTime.Time.Equal(t0) {
				t.Error("a condition that didn't change has a new time")
			}
			if len(s.ContainerStatuses) != 1 || s.ContainerStatuses[0].Ready != (tc.containers == corev1.ConditionTrue) {
				t.Errorf("containers %+v", s.ContainerStatuses)
			}
			// The same again changes nothing, not even times.
			pod := testPod()
			pod.Status = s
			again := observed(pod, hosts, tc.o, now.Add(time.Hour))
			if c := condition(again, corev1.PodReady); !c.LastTransitionTime.Time.Equal(now) || !again.StartTime.Time.Equal(now) {
				t.Errorf("times moved: %+v", c)
			}
		})
	}
}

func TestWaiting(t *testing.T) {
	s := waiting(testPod(), hosts, "ImageMissing", "portico image import FILE", t0)
	if s.Phase != corev1.PodPending || s.Reason != "ImageMissing" || s.PodIP != "" {
		t.Errorf("status %+v", s)
	}
	if w := s.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ImageMissing" || w.Message == "" {
		t.Errorf("container %+v", s.ContainerStatuses[0])
	}
}
