package machines

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/node"
	"portico.dev/portico/internal/node/door"
	"portico.dev/portico/internal/vm"
	"portico.dev/portico/internal/vm/accel"
	"portico.dev/portico/internal/vm/image"
	"portico.dev/portico/test/guest"
)

func testInstance() *kubevirtv1.VirtualMachineInstance {
	memory := resource.MustParse("128Mi")
	return &kubevirtv1.VirtualMachineInstance{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: "vm", UID: "vmi-1",
			Annotations: map[string]string{machine.AddressesAnnotation: "10.245.0.2,fd00:10:245::2", machine.MACAnnotation: "02:70:6f:00:00:01"},
		},
		Spec: kubevirtv1.VirtualMachineInstanceSpec{
			Domain: kubevirtv1.DomainSpec{
				Memory: &kubevirtv1.Memory{Guest: &memory},
				Firmware: &kubevirtv1.Firmware{KernelBoot: &kubevirtv1.KernelBoot{
					KernelArgs: guest.KernelArgs,
					Container:  &kubevirtv1.KernelBootContainer{Image: guest.ImageName, KernelPath: guest.KernelPath, InitrdPath: guest.InitrdPath},
				}},
			},
		},
	}
}

func testPod(vmi *kubevirtv1.VirtualMachineInstance) *corev1.Pod {
	yes := true
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "default", Name: machine.PodName(vmi), UID: "pod-1",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: vmi.Name, UID: vmi.UID, Controller: &yes}},
		Annotations:     maps.Clone(vmi.Annotations),
	}}
}

// setUp opens the runtime on dir as a daemon does; images may lack the guest.
func setUp(t *testing.T, dir string, vmi *kubevirtv1.VirtualMachineInstance) (*Machines, *image.Store) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("QEMU is missing: apt-get install --no-install-recommends qemu-system-x86 qemu-utils")
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	images, err := image.Open(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	choice, err := accel.Detect(accel.Auto)
	if err != nil {
		t.Fatal(err)
	}
	manager, err := vm.Open(vm.Config{Dir: filepath.Join(dir, "guests"), Accel: choice, Images: images, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Adopt(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := New(Config{
		VM: manager, ClusterDomain: "cluster.local", Clock: clock.RealClock{}, Log: log,
		Instance: func(context.Context, string, string) (*kubevirtv1.VirtualMachineInstance, error) { return vmi, nil },
		Services: func(context.Context, string) ([]*catalog.Service, error) { return nil, nil },
	})
	return m, images
}

func awaitObservation(t *testing.T, l node.Workload, what string, is func(node.Observation) bool) node.Observation {
	t.Helper()
	late := time.After(3 * time.Minute)
	for {
		o := l.Observe()
		if is(o) {
			return o
		}
		select {
		case <-l.Changed():
		case <-late:
			t.Fatalf("never %s: %+v", what, o)
		}
	}
}

// VM-05 (a probe gates the endpoint), VM-06 (readiness outlives the daemon), and
// the way from an archive to a prompt.
func TestMachineFromImage(t *testing.T) {
	web, err := net.Listen("tcp", "127.0.0.1:0") // stands for the guest's server: the guest has no link here
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	vmi := testInstance()
	vmi.Spec.ReadinessProbe = &kubevirtv1.Probe{
		Handler:       kubevirtv1.Handler{TCPSocket: &corev1.TCPSocketAction{Host: "127.0.0.1", Port: intstr.FromInt(web.Addr().(*net.TCPAddr).Port)}},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	pod := testPod(vmi)
	dir := t.TempDir()
	m, images := setUp(t, dir, vmi)

	_, err = m.Start(t.Context(), pod)
	var failed *node.StartError
	if !errors.As(err, &failed) || failed.Reason != vm.ReasonNoImage || !strings.Contains(err.Error(), "portico image import") {
		t.Fatalf("without the image: %v", err)
	}
	cache, err := guest.CacheDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	built, err := guest.Build(t.Context(), guest.Options{Cache: cache, Logf: t.Logf})
	if errors.Is(err, guest.ErrNoKernel) {
		t.Skipf("no kernel for a guest: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := images.Import(t.Context(), built.Archive, ""); err != nil {
		t.Fatal(err)
	}
	l, err := m.Start(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	o := awaitObservation(t, l, "ready", func(o node.Observation) bool { return o.Ready })
	if o.Phase != corev1.PodRunning || len(o.Conditions) != 2 || o.Conditions[0].Type != machine.AcceleratedCondition || o.Conditions[1].Status != corev1.ConditionTrue {
		t.Errorf("observed %+v", o)
	}
	tty, err := m.Console(t.Context(), "default", "vm")
	if err != nil {
		t.Fatal(err)
	}
	banner(t, tty)
	if _, err := m.Console(t.Context(), "default", "other"); !errors.Is(err, door.ErrNoInstance) {
		t.Errorf("the console of another: %v", err)
	}

	// The next daemon, while the probe would take its time to succeed.
	m.Close()
	m.cfg.VM.Close()
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.ContainersReady, Status: corev1.ConditionTrue}}
	m, _ = setUp(t, dir, vmi)
	defer m.Close()
	found, err := m.Find(pod)
	if err != nil || found == nil || !found.Observe().Ready {
		t.Fatalf("adopted %v, %v; want it ready at once", found, err)
	}
	web.Close()
	o = awaitObservation(t, found, "unready", func(o node.Observation) bool { return !o.Ready })
	if !strings.Contains(o.Message, "refused") {
		t.Errorf("message %q", o.Message)
	}
	if err := found.Stop(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if o := found.Observe(); o.Phase != corev1.PodSucceeded || o.Ready {
		t.Errorf("stopped: %+v", o)
	}
	if err := found.Remove(); err != nil {
		t.Fatal(err)
	}
	if left := m.Workloads(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func banner(t *testing.T, tty io.ReadWriteCloser) {
	t.Helper()
	late := time.AfterFunc(3*time.Minute, func() { tty.Close() })
	defer late.Stop()
	var seen strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), "Portico test guest") {
		n, err := tty.Read(buf)
		if err != nil {
			t.Fatalf("console: %v after %q", err, seen.String())
		}
		seen.Write(buf[:n])
	}
	tty.Close()
}

func TestRefusals(t *testing.T) {
	vmi := testInstance()
	m, _ := setUp(t, t.TempDir(), vmi)
	defer m.Close()
	for what, tc := range map[string]struct {
		reason string
		change func(*corev1.Pod, *kubevirtv1.VirtualMachineInstance)
	}{
		"no address": {"NoAddress", func(p *corev1.Pod, v *kubevirtv1.VirtualMachineInstance) { p.Annotations, v.Annotations = nil, nil }},
		"another's address": {"NoAddress", func(p *corev1.Pod, _ *kubevirtv1.VirtualMachineInstance) {
			p.Annotations[machine.AddressesAnnotation] = "10.245.0.9"
		}},
		"another's MAC": {"NoAddress", func(p *corev1.Pod, _ *kubevirtv1.VirtualMachineInstance) {
			p.Annotations[machine.MACAnnotation] = "02:70:6f:00:00:09"
		}},
		"no memory":    {"BadInstance", func(_ *corev1.Pod, v *kubevirtv1.VirtualMachineInstance) { v.Spec.Domain.Memory = nil }},
		"a forged UID": {"InstanceMissing", func(p *corev1.Pod, _ *kubevirtv1.VirtualMachineInstance) { p.OwnerReferences[0].UID = "older" }},
		"a second pod": {"InstanceMissing", func(p *corev1.Pod, _ *kubevirtv1.VirtualMachineInstance) { p.Name = "mine" }},
	} {
		*vmi = *testInstance()
		pod := testPod(vmi)
		tc.change(pod, vmi)
		_, err := m.Start(t.Context(), pod)
		var failed *node.StartError
		if !errors.As(err, &failed) || failed.Reason != tc.reason {
			t.Errorf("%s: got %v, want reason %s", what, err, tc.reason)
		}
	}
	plain := testPod(vmi)
	plain.OwnerReferences = nil
	if m.Runs(plain) {
		t.Error("a pod without an instance is said to be a machine's")
	}
}
