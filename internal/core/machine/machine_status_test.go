package machine

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func TestPrintableStatus(t *testing.T) {
	at := func(phase kubevirtv1.VirtualMachineInstancePhase, p *corev1.Pod) func(*kubevirtv1.VirtualMachine) *kubevirtv1.VirtualMachineInstance {
		return func(vm *kubevirtv1.VirtualMachine) *kubevirtv1.VirtualMachineInstance {
			vmi := instanceOf(vm, "vmi-uid", phase)
			vmi.Status = InstanceStatus(vmi, p, now)
			return vmi
		}
	}
	none := func(*kubevirtv1.VirtualMachine) *kubevirtv1.VirtualMachineInstance { return nil }
	runs := at(kubevirtv1.Scheduled, pod(corev1.PodRunning))
	for _, c := range []struct {
		name     string
		strategy kubevirtv1.VirtualMachineRunStrategy
		vmi      func(*kubevirtv1.VirtualMachine) *kubevirtv1.VirtualMachineInstance
		want     kubevirtv1.VirtualMachinePrintableStatus
	}{
		{"halted", halted, none, "Stopped"},
		{"manual", manual, none, "Stopped"},
		{"always, no instance yet", always, none, "Starting"},
		{"new instance", always, at("", nil), "Provisioning"},
		{"no node yet", always, at(kubevirtv1.Pending, pod(corev1.PodPending, unbound)), "Starting"},
		{"no node fits", always, at(kubevirtv1.Pending, pod(corev1.PodPending, unbound, with(corev1.PodScheduled, corev1.ConditionFalse, "Unschedulable"))), "ErrorUnschedulable"},
		{"on a node", always, at(kubevirtv1.Scheduling, pod(corev1.PodPending)), "Starting"},
		{"runs", always, runs, "Running"},
		{"paused", always, at(kubevirtv1.Scheduled, pod(corev1.PodRunning, with(kubevirtv1.VirtualMachineUnpaused, corev1.ConditionFalse, "PausedByUser"))), "Paused"},
		{"halted and runs", halted, runs, "Stopping"},
		{"instance is deleted", always, func(vm *kubevirtv1.VirtualMachine) *kubevirtv1.VirtualMachineInstance { return deleting(runs(vm)) }, "Stopping"},
		{"manual and ended", manual, at(kubevirtv1.Running, pod(corev1.PodSucceeded)), "Stopped"},
		{"once and failed", once, at(kubevirtv1.Running, pod(corev1.PodFailed)), "Stopped"},
		{"always and never ran", always, at(kubevirtv1.Scheduled, pod(corev1.PodFailed)), "CrashLoopBackOff"},
		{"always and ended", always, at(kubevirtv1.Running, pod(corev1.PodSucceeded)), "CrashLoopBackOff"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm := testVM(strategy(c.strategy))
			if got := MachineStatus(vm, c.vmi(vm), nil, now).PrintableStatus; got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			vm.DeletionTimestamp = &metav1.Time{Time: now}
			if got := MachineStatus(vm, c.vmi(vm), nil, now).PrintableStatus; got != kubevirtv1.VirtualMachineStatusTerminating {
				t.Errorf("%s while being deleted", got)
			}
		})
	}
}

func TestMachineStatus(t *testing.T) {
	vm := testVM()
	vmi := instanceOf(vm, "vmi-uid", kubevirtv1.Scheduled)
	vmi.Status = InstanceStatus(vmi, pod(corev1.PodRunning, with(AcceleratedCondition, corev1.ConditionFalse, "NoKVM")), now)
	status := MachineStatus(vm, vmi, nil, now)
	if !status.Created || !status.Ready || status.RunStrategy != always {
		t.Errorf("status %+v", status)
	}
	if c := findVM(status.Conditions, kubevirtv1.VirtualMachineReady); c == nil || c.Status != corev1.ConditionTrue {
		t.Errorf("ready %v", c)
	}
	if c := findVM(status.Conditions, AcceleratedCondition); c == nil || c.Reason != "NoKVM" {
		t.Errorf("acceleration %v", c)
	}
	vm.Status = status
	if again := MachineStatus(vm, vmi, nil, now.Add(1)); mustYAML(t, again) != mustYAML(t, status) {
		t.Errorf("the same instance gives another status later:\n%s\n%s", mustYAML(t, status), mustYAML(t, again))
	}
	failed := MachineStatus(vm, nil, &Failure{"FailedCreate", "quota"}, now)
	if c := findVM(failed.Conditions, kubevirtv1.VirtualMachineFailure); c == nil || c.Message != "quota" {
		t.Errorf("failure %v", c)
	}
	if c := findVM(failed.Conditions, kubevirtv1.VirtualMachineReady); c.Status != corev1.ConditionFalse || failed.Created || failed.Ready {
		t.Errorf("ready without an instance: %v", c)
	}
}

// VM-02: a changed template waits for the next start, and says so: labels by
// LabelsPending with their keys, the rest by RestartRequired with its fields.
func TestPendingChanges(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*kubevirtv1.VirtualMachine)
		labels  string // in LabelsPending's message; "" for no such condition
		restart string // in RestartRequired's
	}{
		{"nothing", func(*kubevirtv1.VirtualMachine) {}, "", ""},
		{"run strategy", strategy(manual), "", ""},
		{"label added", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.ObjectMeta.Labels["tier"] = "x" }, "start: tier; to apply them run: portico vm restart web", ""},
		{"label changed", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.ObjectMeta.Labels["special"] = "x" }, "start: special;", ""},
		{"label removed", func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.ObjectMeta.Labels = nil }, "start: special (to be removed);", ""},
		{"spec", func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.Spec.Hostname = "other"
			vm.Spec.Template.Spec.Domain.CPU = &kubevirtv1.CPU{Cores: 2}
		}, "", "start: template.spec.domain.cpu, template.spec.hostname; to apply them run: portico vm restart web"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm := testVM()
			vmi := instanceOf(vm, "vmi-uid", kubevirtv1.Running)
			c.change(vm)
			vm.Generation++
			status := MachineStatus(vm, vmi, nil, now)
			for kind, want := range map[kubevirtv1.VirtualMachineConditionType]string{LabelsPending: c.labels, kubevirtv1.VirtualMachineRestartRequired: c.restart} {
				got := findVM(status.Conditions, kind)
				if (got != nil) != (want != "") || got != nil && !strings.Contains(got.Message, want) {
					t.Errorf("%s: %v, want %q", kind, got, want)
				}
			}
			if synced := status.ObservedGeneration == status.DesiredGeneration; synced != (c.labels == "" && c.restart == "") {
				t.Errorf("generations %d, %d", status.ObservedGeneration, status.DesiredGeneration)
			}
			for _, vmi := range []*kubevirtv1.VirtualMachineInstance{nil, deleting(vmi), InstanceFor(vm)} {
				after := MachineStatus(vm, vmi, nil, now)
				if findVM(after.Conditions, LabelsPending) != nil || findVM(after.Conditions, kubevirtv1.VirtualMachineRestartRequired) != nil {
					t.Errorf("changes wait after the restart: %v", after.Conditions)
				}
			}
		})
	}
}
