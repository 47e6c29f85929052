package machine

import (
	"maps"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// VM-02, VM-03: the instance is the template under the machine's name, with the
// machine's claims and an identity that stays.
func TestInstanceFor(t *testing.T) {
	vm := testVM(func(vm *kubevirtv1.VirtualMachine) {
		vm.Spec.Template.ObjectMeta.Annotations = map[string]string{"a": "b", AddressesAnnotation: "10.0.0.1"}
	})
	before := vm.DeepCopy()
	vmi := InstanceFor(vm)
	if !reflect.DeepEqual(vm, before) {
		t.Error("InstanceFor changed the machine")
	}
	if vmi.Name != "web" || vmi.Namespace != "ns" || !IsOwnedBy(vmi, vm) {
		t.Errorf("instance %s/%s of %v", vmi.Namespace, vmi.Name, vmi.OwnerReferences)
	}
	if !maps.Equal(vmi.Labels, map[string]string{"special": "key"}) {
		t.Errorf("labels %v", vmi.Labels)
	}
	want := map[string]string{
		"a": "b", "kubevirt.io/vm-generation": "3",
		AddressesAnnotation: "10.245.0.2,fd00:10:245::2", MACAnnotation: "02:70:6f:00:00:01",
	}
	if !maps.Equal(vmi.Annotations, want) {
		t.Errorf("annotations %v", vmi.Annotations)
	}
	uuid := vmi.Spec.Domain.Firmware.UUID
	if again := InstanceFor(vm).Spec.Domain.Firmware.UUID; again != uuid || !uuidPattern.MatchString(string(uuid)) {
		t.Errorf("firmware UUID %s, then %s", uuid, again)
	}
	other := testVM(func(vm *kubevirtv1.VirtualMachine) { vm.UID = "created anew" })
	if InstanceFor(other).Spec.Domain.Firmware.UUID == uuid {
		t.Error("two machines of one name share a firmware UUID")
	}
	if n := vmi.Spec.Networks; len(n) != 1 || n[0].Pod == nil {
		t.Errorf("networks %v", n)
	}
}

// VM-05.
func TestPodFor(t *testing.T) {
	vm := testVM(func(vm *kubevirtv1.VirtualMachine) {
		spec := &vm.Spec.Template.Spec
		spec.Subdomain = "sub"
		spec.Architecture = "arm64"
		spec.NodeSelector = map[string]string{"disk": "ssd"}
		spec.Networks = []kubevirtv1.Network{*kubevirtv1.DefaultPodNetwork()}
		nic := *kubevirtv1.DefaultBridgeNetworkInterface()
		nic.Ports = []kubevirtv1.Port{{Name: "http", Port: 9376}, {Name: "dns", Port: 53, Protocol: "UDP"}}
		spec.Domain.Devices.Interfaces = []kubevirtv1.Interface{nic}
		spec.ReadinessProbe = &kubevirtv1.Probe{Handler: kubevirtv1.Handler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("http")}}}
		vm.Spec.Template.ObjectMeta.Labels["kubevirt.io"] = "mine"
	})
	vmi := instanceOf(vm, "vmi-uid", kubevirtv1.Pending)
	pod := PodFor(vmi)
	wantLabels := map[string]string{
		"special": "key", "kubevirt.io": "virt-launcher", "kubevirt.io/created-by": "vmi-uid", "vm.kubevirt.io/name": "web", "vmi.kubevirt.io/id": "web",
	}
	if !maps.Equal(pod.Labels, wantLabels) {
		t.Errorf("labels %v", pod.Labels)
	}
	if vmi.Labels["kubevirt.io"] != "mine" {
		t.Error("PodFor changed the instance's labels")
	}
	if pod.Annotations[AddressesAnnotation] == "" || pod.Annotations[MACAnnotation] == "" || pod.Annotations[kubevirtv1.DomainAnnotation] != "web" {
		t.Errorf("annotations %v", pod.Annotations)
	}
	if name, uid, ok := InstanceOf(pod); !ok || name.String() != "ns/web" || uid != "vmi-uid" {
		t.Errorf("the pod leads to %s %s %v", name, uid, ok)
	}
	if pod.Spec.Hostname != "web" || pod.Spec.Subdomain != "sub" || *pod.Spec.TerminationGracePeriodSeconds != 30 || pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
		t.Errorf("spec %+v", pod.Spec)
	}
	if !maps.Equal(pod.Spec.NodeSelector, map[string]string{"disk": "ssd", "kubernetes.io/arch": "arm64"}) {
		t.Errorf("node selector %v", pod.Spec.NodeSelector)
	}
	c := pod.Spec.Containers[0]
	wantPorts := []corev1.ContainerPort{{Name: "http", ContainerPort: 9376, Protocol: "TCP"}, {Name: "dns", ContainerPort: 53, Protocol: "UDP"}}
	if c.Name != "compute" || !reflect.DeepEqual(c.Ports, wantPorts) {
		t.Errorf("container %+v", c)
	}
	if c.ReadinessProbe == nil || c.ReadinessProbe.HTTPGet.Port.StrVal != "http" || c.ReadinessProbe.PeriodSeconds != 10 || c.LivenessProbe != nil {
		t.Errorf("probes %+v, %+v", c.ReadinessProbe, c.LivenessProbe)
	}
	if m := c.Resources.Requests[corev1.ResourceMemory]; m.Cmp(resource.MustParse("256Mi")) != 0 {
		t.Errorf("requests %s for a guest of 128Mi", m.String())
	}
	if g := pod.Spec.ReadinessGates; len(g) != 1 || g[0].ConditionType != kubevirtv1.VirtualMachineUnpaused {
		t.Errorf("readiness gates %v", g)
	}
	if again := PodFor(vmi); !reflect.DeepEqual(pod, again) {
		t.Error("two calls make two pods")
	}
}

// Names stay within what pods and labels may have, whatever the machine's name.
func TestNames(t *testing.T) {
	long := strings.Repeat("a", 62) + "-" + strings.Repeat("b", 190)
	for _, name := range []string{"web", "web.example", long, strings.Repeat("a.", 126) + "a"} {
		vmi := &kubevirtv1.VirtualMachineInstance{}
		vmi.Name, vmi.UID = name, "u"
		if msgs := apivalidation.NameIsDNSSubdomain(PodName(vmi), false); msgs != nil {
			t.Errorf("pod name %q: %v", PodName(vmi), msgs)
		}
		for _, value := range []string{HostName(vmi), instanceID(name)} {
			if msgs := validation.IsValidLabelValue(value); msgs != nil {
				t.Errorf("%q: %v", value, msgs)
			}
		}
		if msgs := validation.IsDNS1123Label(HostName(vmi)); msgs != nil {
			t.Errorf("host name %q: %v", HostName(vmi), msgs)
		}
		other := vmi.DeepCopy()
		other.UID = "v"
		if PodName(vmi) == PodName(other) {
			t.Error("two instances of one name share a pod name")
		}
	}
	if instanceID(long) == instanceID(long+"c") {
		t.Error("two long names share a label")
	}
}

func pod(phase corev1.PodPhase, change ...func(*corev1.Pod)) *corev1.Pod {
	p := PodFor(instanceOf(testVM(), "vmi-uid", kubevirtv1.Pending))
	p.UID = "pod-uid"
	p.Spec.NodeName = "node-a"
	p.Status.Phase = phase
	if phase == corev1.PodRunning {
		p.Status.PodIPs = []corev1.PodIP{{IP: "10.245.0.2"}, {IP: "fd00:10:245::2"}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func with(kind corev1.PodConditionType, status corev1.ConditionStatus, reason string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: reason})
	}
}

func unbound(p *corev1.Pod) { p.Spec.NodeName = "" }

func TestInstancePhases(t *testing.T) {
	deletion := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }
	for _, c := range []struct {
		name  string
		was   kubevirtv1.VirtualMachineInstancePhase
		pod   *corev1.Pod
		phase kubevirtv1.VirtualMachineInstancePhase
		ready string // the Ready condition's status and reason
	}{
		{"new", "", nil, kubevirtv1.Pending, "False PodNotExists"},
		{"no node yet", kubevirtv1.Pending, pod(corev1.PodPending, unbound), kubevirtv1.Scheduling, "False GuestNotRunning"},
		{"a node", kubevirtv1.Scheduling, pod(corev1.PodPending), kubevirtv1.Scheduled, "False GuestNotRunning"},
		{"runs", kubevirtv1.Scheduled, pod(corev1.PodRunning), kubevirtv1.Running, "True "},
		{"runs, not asked yet", kubevirtv1.Scheduled, pod(corev1.PodRunning, func(p *corev1.Pod) { p.Status.Conditions = nil }), kubevirtv1.Running, "False PodConditionMissing"},
		{"never goes back", kubevirtv1.Running, pod(corev1.PodPending), kubevirtv1.Running, "True "},
		{"node is lost", kubevirtv1.Running, pod(corev1.PodUnknown), kubevirtv1.Running, "False PodConditionMissing"},
		{"ends well", kubevirtv1.Running, pod(corev1.PodSucceeded), kubevirtv1.Succeeded, "False GuestNotRunning"},
		{"fails", kubevirtv1.Running, pod(corev1.PodFailed), kubevirtv1.Failed, "False GuestNotRunning"},
		{"fails early", kubevirtv1.Scheduling, pod(corev1.PodFailed), kubevirtv1.Failed, "False GuestNotRunning"},
		{"pod is lost", kubevirtv1.Running, nil, kubevirtv1.Failed, "False PodNotExists"},
		{"is final", kubevirtv1.Failed, pod(corev1.PodRunning), kubevirtv1.Failed, "False GuestNotRunning"},
		{"is stopped", kubevirtv1.Running, pod(corev1.PodRunning, deletion), kubevirtv1.Running, "False PodTerminating"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "never goes back" {
				with(corev1.PodReady, corev1.ConditionTrue, "")(c.pod)
			}
			vmi := instanceOf(testVM(), "vmi-uid", c.was)
			status := InstanceStatus(vmi, c.pod, now)
			if status.Phase != c.phase {
				t.Errorf("phase %s, want %s", status.Phase, c.phase)
			}
			ready := findVMI(status.Conditions, kubevirtv1.VirtualMachineInstanceReady)
			if got := string(ready.Status) + " " + ready.Reason; got != c.ready {
				t.Errorf("ready %q, want %q", got, c.ready)
			}
			if moved := len(status.PhaseTransitionTimestamps) == 1; moved != (c.was != c.phase) {
				t.Errorf("transitions %v from %s to %s", status.PhaseTransitionTimestamps, c.was, c.phase)
			}
			vmi.Status = status
			if again := InstanceStatus(vmi, c.pod, now.Add(1)); mustYAML(t, again) != mustYAML(t, status) {
				t.Errorf("the same pod gives another status later:\n%s\n%s", mustYAML(t, status), mustYAML(t, again))
			}
		})
	}
}

func TestInstanceStatus(t *testing.T) {
	vmi := instanceOf(testVM(), "vmi-uid", kubevirtv1.Scheduled)
	status := InstanceStatus(vmi, pod(corev1.PodRunning, with(AcceleratedCondition, corev1.ConditionFalse, "NoKVM")), now)
	nic := status.Interfaces[0]
	if nic.IP != "10.245.0.2" || len(nic.IPs) != 2 || nic.MAC != "02:70:6f:00:00:01" || nic.Name != "default" || nic.LinkState != "up" {
		t.Errorf("interface %+v", nic)
	}
	if status.NodeName != "node-a" || status.ActivePods["pod-uid"] != "node-a" {
		t.Errorf("node %s, pods %v", status.NodeName, status.ActivePods)
	}
	if c := findVMI(status.Conditions, AcceleratedCondition); c == nil || c.Status != corev1.ConditionFalse || c.Reason != "NoKVM" {
		t.Errorf("acceleration %v", c)
	}
	if c := findVMI(status.Conditions, kubevirtv1.VirtualMachineInstanceSoftwareEmulation); c == nil || c.Status != corev1.ConditionTrue {
		t.Errorf("emulation %v", c)
	}
	if c := findVMI(status.Conditions, kubevirtv1.VirtualMachineInstanceIsMigratable); c == nil || c.Status != corev1.ConditionFalse {
		t.Errorf("migratable %v", c)
	}
	paused := InstanceStatus(vmi, pod(corev1.PodRunning, with(kubevirtv1.VirtualMachineUnpaused, corev1.ConditionFalse, "PausedByUser")), now)
	if c := findVMI(paused.Conditions, kubevirtv1.VirtualMachineInstancePaused); c == nil || c.Status != corev1.ConditionTrue {
		t.Errorf("paused %v", c)
	}
}
