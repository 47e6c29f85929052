package node

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/clock"
)

// ownedPod runs for the instance vmi-1.
func ownedPod() *corev1.Pod {
	yes := true
	pod := testPod()
	pod.Status.Phase = corev1.PodRunning
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: "vm", UID: "vmi-1", Controller: &yes}}
	return pod
}

// VM-06: a guest that nobody knows ends when its pod is removed by force, and at once where
// that was done while no daemon ran; not while the API has its pod.
func TestUnknownGuestEndsWithItsPod(t *testing.T) {
	s := newSite(t, nil, func(r *rack) {
		r.unknown, r.unseen = errors.New("its file can't be read"), []types.UID{"vmi-1", "nobody"}
	}, ownedPod())
	s.until(t, "without the orphan", func(*corev1.Pod) bool { return len(s.Unknown()) == 1 })
	s.until(t, "told", func(*corev1.Pod) bool { return strings.Contains(s.all(), "GuestUnknown") })
	if s.told() != "end nobody" {
		t.Errorf("story: %s", s.told())
	}
	if err := s.client.CoreV1().Pods("default").Delete(t.Context(), "virt-launcher-vm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "without a guest", func(*corev1.Pod) bool { return len(s.Unknown()) == 0 })
	if want := "end nobody; end vmi-1"; s.told() != want {
		t.Errorf("story: %s, want %s", s.told(), want)
	}
}

// VM-06: a pod that is removed by force before its worker has looked for the guest.
func TestForcedRemovalAtTheStart(t *testing.T) {
	r := &rack{loads: map[types.UID]*fakeLoad{}}
	r.add("pod-1")
	r.add("pod-2")
	n := New(Config{Name: "node-a", Client: fake.NewClientset(), Runtime: r, Recorder: &events{}, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
	w := n.newWorker("pod-1", "default/virt-launcher-vm")
	w.set(ownedPod())
	w.set(nil)
	if done, _ := w.step(t.Context()); !done || r.get("pod-1") != nil || r.get("pod-2") == nil {
		t.Errorf("done %v; story: %s", done, r.told())
	}
}

// VM-06: a watch that was cut off shows another pod of the same name as a change of the first.
func TestAnotherPodOfTheName(t *testing.T) {
	s := newSite(t, nil, func(r *rack) {
		r.add("pod-1")
		r.fail = errors.New("not yet")
	}, ownedPod())
	s.until(t, "observed", func(p *corev1.Pod) bool { return len(p.Status.ContainerStatuses) > 0 })
	next := ownedPod()
	next.UID, next.Status.Phase = "pod-2", corev1.PodPending
	if _, err := s.client.CoreV1().Pods("default").Update(t.Context(), next, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "without the first guest", func(*corev1.Pod) bool { return s.get("pod-1") == nil })
}

// VM-06: why a guest is lost is told, and what helps.
func TestLostGuestTellsWhy(t *testing.T) {
	s := newSite(t, nil, func(r *rack) { r.unknown = fmt.Errorf("%w: its files are damaged", ErrLost) }, ownedPod())
	p := s.until(t, "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if want := "the node lost the guest: its files are damaged"; p.Status.Reason != "GuestLost" || p.Status.Message != want {
		t.Errorf("status %s: %q", p.Status.Reason, p.Status.Message)
	}
}
