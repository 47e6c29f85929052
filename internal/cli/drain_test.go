package cli

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// A node isn't called empty while it has a pod that was bound to it after the others had
// been listed.
func TestDrainSeesLatePods(t *testing.T) {
	pod := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: "b"}}
	}
	kube := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, pod("early"))
	var ended []string
	kube.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		name := a.(clienttesting.DeleteAction).GetName()
		ended = append(ended, name)
		if name == "early" { // the scheduler hasn't heard of the cordon yet
			return false, nil, kube.Tracker().Add(pod("late"))
		}
		return false, nil, nil
	})
	var out bytes.Buffer
	d := &drain{kube: kube, node: "b", out: &out, grace: -1, timeout: time.Minute, force: true}
	if err := d.run(t.Context()); err != nil {
		t.Error(err)
	}
	if !slices.Equal(ended, []string{"early", "late"}) || !strings.HasSuffix(out.String(), "Empty        node b\n") {
		t.Errorf("stopped %v:\n%s", ended, out.String())
	}
}

// What tolerates the cordon comes again each time: it is named, and not stopped for ever.
func TestDrainEnds(t *testing.T) {
	pod := func(i int) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: "default", UID: types.UID(fmt.Sprint(i))}, Spec: corev1.PodSpec{NodeName: "b"}}
	}
	kube := fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, pod(0))
	deletes := 0
	kube.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		deletes++
		return false, nil, kube.Tracker().Add(pod(deletes))
	})
	d := &drain{kube: kube, node: "b", out: io.Discard, grace: -1, timeout: time.Minute, force: true}
	if err := d.run(t.Context()); err == nil || !strings.Contains(err.Error(), "default/p3") || deletes != drainRounds {
		t.Errorf("after %d deletions: %v", deletes, err)
	}
}
