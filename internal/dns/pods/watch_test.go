package pods

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/records"
)

// known is a Consumer that keeps what it hears.
type known struct {
	mu   sync.Mutex // guards the following
	pods map[types.NamespacedName]*records.Pod
}

func (k *known) ReplacePods(pods []*records.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pods = map[types.NamespacedName]*records.Pod{}
	for _, p := range pods {
		k.pods[p.Name] = p
	}
}

func (k *known) UpdatePod(name types.NamespacedName, p *records.Pod) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pods, name)
	if p != nil {
		k.pods[name] = p
	}
}

func (k *known) String() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pods == nil {
		return "nothing"
	}
	var out []string
	for _, p := range k.pods {
		out = append(out, fmt.Sprintf("%s %v of %q", p.Name.Name, p.Addrs, p.Machine))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// TestWatch: pods come and go with their addresses, those of machines alone or all.
// DNS-04
func TestWatch(t *testing.T) {
	server := apitest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	if _, err := server.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	api := server.Kube.CoreV1().Pods("default")
	run := func(name, address string, labels map[string]string) {
		t.Helper()
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		}
		pod, err := api.Create(ctx, pod, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: address, PodIPs: []corev1.PodIP{{IP: address}}}
		if _, err := api.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	machine := map[string]string{records.MachineLabel: "web"}
	run("vm", "10.245.0.9", machine)
	run("other", "10.244.0.9", nil)

	machines, all := &known{}, &known{}
	for which, to := range map[Which]*known{Machines: machines, All: all} {
		group.Go(func() {
			if err := Watch(ctx, server.Kube, which, slog.New(slog.DiscardHandler), to); err != nil {
				t.Error(err)
			}
		})
	}
	expect := func(wantMachines, wantAll string) {
		t.Helper()
		apitest.Eventually(t, "the pods", func() error {
			if m, a := machines.String(), all.String(); m != wantMachines || a != wantAll {
				return fmt.Errorf("machines: %s; all: %s", m, a)
			}
			return nil
		})
	}
	expect(`vm [10.245.0.9] of "web"`, `other [10.244.0.9] of ""; vm [10.245.0.9] of "web"`)
	run("vm2", "10.245.0.10", machine)
	expect(`vm [10.245.0.9] of "web"; vm2 [10.245.0.10] of "web"`, `other [10.244.0.9] of ""; vm [10.245.0.9] of "web"; vm2 [10.245.0.10] of "web"`)
	now := int64(0)
	for _, name := range []string{"vm", "other"} {
		if err := api.Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Fatal(err)
		}
	}
	expect(`vm2 [10.245.0.10] of "web"`, `vm2 [10.245.0.10] of "web"`)
}
