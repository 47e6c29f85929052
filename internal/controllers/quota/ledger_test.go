package quota

import (
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/core/quota"
)

var services = schema.GroupResource{Resource: "services"}

func nodePorts(namespace, name string, n int) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP}}
	if n > 0 {
		s.Spec.Type, s.Spec.Ports = corev1.ServiceTypeNodePort, make([]corev1.ServicePort, n)
	}
	return s
}

// API-13: what comes, changes and goes is counted by namespace, and what goes is owed to
// the quotas that were open then, to each in full.
func TestLedger(t *testing.T) {
	l := newLedger()
	var told []string
	h := l.handler(services, func(namespace string) { told = append(told, namespace) })
	check := func(uid types.UID, namespace string, there, owed quota.Amounts) {
		t.Helper()
		gotThere, gotOwed := l.open(uid, namespace)
		if !maps.Equal(gotThere, there) || !maps.Equal(gotOwed, owed) {
			t.Errorf("quota %s of %s: there %v, owed %v; want %v, %v", uid, namespace, gotThere, gotOwed, there, owed)
		}
	}
	none := quota.Amounts{}
	check("early", "a", none, none)
	x, y := nodePorts("a", "x", 2), nodePorts("b", "y", 1)
	h.OnAdd(x, true)
	h.OnAdd(y, true)
	check("early", "a", quota.Amounts{"services": 1, "count/services": 1, "services.nodeports": 2}, none)
	check("other", "b", quota.Amounts{"services": 1, "count/services": 1, "services.nodeports": 1}, none)

	h.OnUpdate(x, nodePorts("a", "x", 3)) // more: charged by who made it, owed to nobody
	check("early", "a", quota.Amounts{"services": 1, "count/services": 1, "services.nodeports": 3}, none)
	h.OnUpdate(nodePorts("a", "x", 3), nodePorts("a", "x", 0))
	check("early", "a", quota.Amounts{"services": 1, "count/services": 1}, quota.Amounts{"services.nodeports": 3})
	check("late", "a", quota.Amounts{"services": 1, "count/services": 1}, none)

	told = nil
	h.OnUpdate(nodePorts("a", "x", 0), nodePorts("a", "x", 0))
	if len(told) != 0 {
		t.Errorf("a change that frees and takes nothing is told: %q", told)
	}
	h.OnDelete(cache.DeletedFinalStateUnknown{Key: "a/x", Obj: nodePorts("a", "x", 0)})
	if len(told) != 1 || told[0] != "a" {
		t.Errorf("told %q, want a", told)
	}
	check("early", "a", none, quota.Amounts{"services": 1, "count/services": 1, "services.nodeports": 3})
	check("late", "a", none, quota.Amounts{"services": 1, "count/services": 1})
	check("other", "b", quota.Amounts{"services": 1, "count/services": 1, "services.nodeports": 1}, none)

	// What comes while a refund is written stays owed.
	_, owed := l.open("late", "a")
	h.OnAdd(x, false)
	h.OnDelete(x)
	l.paid("late", owed)
	check("late", "a", none, quota.Amounts{"services": 1, "count/services": 1, "services.nodeports": 2})
	l.close("late")
	l.paid("late", owed) // of one that is closed: nothing
	check("late", "a", none, none)

	// Kinds are counted side by side, by their names alone.
	pods := schema.GroupResource{Resource: "pods"}
	ph := l.handler(pods, func(string) {})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "b", Name: "p"}}
	ended := pod.DeepCopy()
	ended.Status.Phase = corev1.PodSucceeded
	ph.OnAdd(pod, false)
	ph.OnUpdate(pod, ended)
	check("other", "b", quota.Amounts{"services": 1, "count/services": 1, "services.nodeports": 1, "count/pods": 1}, quota.Amounts{"pods": 1})
}
