package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/test/journal"
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

// TestForbidden: where pods may not be read there are none, the log says which right is
// missing, and once it is there so are they. DNS-05
func TestForbidden(t *testing.T) {
	kube := fake.NewClientset(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "vm", Labels: map[string]string{records.MachineLabel: "vm"}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.245.0.9"}}},
	})
	var may atomic.Bool
	refuse := func(k8stesting.Action) (bool, runtime.Object, error) {
		return !may.Load(), nil, apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("no right"))
	}
	kube.PrependReactor("list", "pods", refuse)
	kube.PrependWatchReactor("pods", func(a k8stesting.Action) (bool, watch.Interface, error) {
		refused, _, err := refuse(a)
		return refused, nil, err
	})
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	var k known
	log := &journal.Log{}
	group.Go(func() {
		if err := Watch(ctx, kube, Machines, slog.New(slog.NewTextHandler(log, nil)), &k); err != nil {
			t.Error(err)
		}
	})
	expect := func(want string) {
		t.Helper()
		apitest.Eventually(t, want, func() error {
			if got := k.String(); got != want {
				return fmt.Errorf("the consumer knows %q", got)
			}
			return nil
		})
	}
	expect("")
	apitest.Eventually(t, "the log", func() error {
		if text := log.String(); !strings.Contains(text, "list and watch pods") {
			return fmt.Errorf("it says %q", text)
		}
		return nil
	})
	may.Store(true)
	expect(`vm [10.245.0.9] of "vm"`)
}
