package machine

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

const (
	always  = kubevirtv1.RunStrategyAlways
	halted  = kubevirtv1.RunStrategyHalted
	manual  = kubevirtv1.RunStrategyManual
	rerun   = kubevirtv1.RunStrategyRerunOnFailure
	once    = kubevirtv1.RunStrategyOnce
	noPhase = kubevirtv1.VirtualMachineInstancePhase("no instance")
	ending  = kubevirtv1.VirtualMachineInstancePhase("being deleted")
)

// VM-01: every subresource in every run strategy and every state of the
// instance. Answers: what is written, or the beginning of the 409's reason.
func TestSubresources(t *testing.T) {
	states := []kubevirtv1.VirtualMachineInstancePhase{noPhase, kubevirtv1.Scheduling, kubevirtv1.Running, kubevirtv1.Succeeded, kubevirtv1.Failed, ending}
	const (
		isRunning  = "409 VM is already running"
		notRunning = "409 VM is not running"
		// what to do, in each
		startsItself = "409 VM is not running; it starts by itself"
		startIt      = "409 VM is not running; its changes apply at the next start: run \"portico vm start web\""
		underWay     = "409 unable to complete request: stop/start already underway"
	)
	same := func(s string) [6]string { return [6]string{s, s, s, s, s, s} }
	for _, c := range []struct {
		verb     string
		strategy kubevirtv1.VirtualMachineRunStrategy
		// in the order of states
		want [6]string
	}{
		{"start", always, [6]string{"409 Always does not support manual start requests", isRunning, isRunning, "409 Always does not support", "409 Always does not support", isRunning}},
		{"start", halted, [6]string{"spec Always", isRunning, isRunning, "spec Always", "spec Always", isRunning}},
		{"start", manual, [6]string{"status Start", isRunning, isRunning, "status Stop vmi-uid, Start", "status Stop vmi-uid, Start", isRunning}},
		{"start", rerun, [6]string{"status Start", isRunning, isRunning, "status Stop vmi-uid, Start", "409 RerunOnFailure does not support starting VM from failed state", isRunning}},
		{"start", once, [6]string{"409 Once does not support manual start requests", isRunning, isRunning, "409 Once does not support", "409 Once does not support", isRunning}},

		{"stop", always, same("spec Halted")},
		{"stop", once, same("spec Halted")},
		{"stop", halted, [6]string{notRunning, "409 Halted only supports", "409 Halted only supports", notRunning, notRunning, "409 Halted only supports"}},
		{"stop", manual, [6]string{notRunning, "status Stop vmi-uid", "status Stop vmi-uid", notRunning, notRunning, "status Stop vmi-uid"}},
		{"stop", rerun, [6]string{notRunning, "status Stop vmi-uid", "status Stop vmi-uid", notRunning, notRunning, "status Stop vmi-uid"}},

		{"restart", always, [6]string{startsItself, "status Stop vmi-uid, Start", "status Stop vmi-uid, Start", startsItself, startsItself, underWay}},
		{"restart", halted, same("409 RunStrategy Halted does not support manual restart requests: the VM doesn't run, and its changes apply at the next start")},
		{"restart", manual, [6]string{startIt, "status Stop vmi-uid, Start", "status Stop vmi-uid, Start", startIt, startIt, underWay}},
		{"restart", rerun, [6]string{startIt, "status Stop vmi-uid, Start", "status Stop vmi-uid, Start", startIt, startIt, underWay}},
		{"restart", once, same("409 RunStrategy Once does not support manual restart requests: its changes apply at the next start")},
	} {
		for i, state := range states {
			t.Run(c.verb+"/"+string(c.strategy)+"/"+string(state), func(t *testing.T) {
				vm := testVM(strategy(c.strategy))
				if got := ask(c.verb, vm, instanceIn(vm, state)); !strings.HasPrefix(got, c.want[i]) || strings.HasPrefix(c.want[i], "s") && got != c.want[i] {
					t.Errorf("got %q, want %q", got, c.want[i])
				}
			})
		}
	}
}

func instanceIn(vm *kubevirtv1.VirtualMachine, state kubevirtv1.VirtualMachineInstancePhase) *kubevirtv1.VirtualMachineInstance {
	switch state {
	case noPhase:
		return nil
	case ending:
		return deleting(instanceOf(vm, "vmi-uid", kubevirtv1.Running))
	}
	return instanceOf(vm, "vmi-uid", state)
}

func ask(verb string, vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance) string {
	var change Change
	var err error
	switch verb {
	case "start":
		change, err = StartMachine(vm, vmi, kubevirtv1.StartOptions{})
	case "stop":
		change, err = StopMachine(vm, vmi, kubevirtv1.StopOptions{})
	case "restart":
		change, err = RestartMachine(vm, vmi, kubevirtv1.RestartOptions{})
	}
	return answer(vm, change, err)
}

// answer says in a line what a subresource answers and writes.
func answer(vm *kubevirtv1.VirtualMachine, change Change, err error) string {
	if err != nil {
		text := strings.TrimPrefix(err.Error(), `Operation cannot be fulfilled on virtualmachine.kubevirt.io "web": `)
		switch {
		case apierrors.IsConflict(err):
			return "409 " + text
		case apierrors.IsBadRequest(err):
			return "400 " + text
		}
		return text
	}
	after := vm.DeepCopy()
	change.Apply(after)
	if !change.ToStatus() {
		strategy, err := after.RunStrategy()
		if err != nil {
			return err.Error()
		}
		return "spec " + string(strategy)
	}
	var words []string
	for _, r := range after.Status.StateChangeRequests {
		word := string(r.Action)
		if r.UID != nil {
			word += " " + string(*r.UID)
		}
		words = append(words, word)
	}
	return "status " + strings.Join(words, ", ")
}

// A machine that says running keeps saying running: the two fields exclude
// each other.
func TestSubresourcesKeepTheField(t *testing.T) {
	off := testVM(running(false))
	change, err := StartMachine(off, nil, kubevirtv1.StartOptions{})
	if err != nil {
		t.Fatal(err)
	}
	change.Apply(off)
	if off.Spec.RunStrategy != nil || off.Spec.Running == nil || !*off.Spec.Running {
		t.Errorf("start of running: false gives running %v, runStrategy %v", off.Spec.Running, off.Spec.RunStrategy)
	}
}

func TestSubresourceOptions(t *testing.T) {
	zero, ten, fifty, minus := ptr(int64(0)), ptr(int64(10)), ptr(int64(50)), ptr(int64(-1))
	of := func(s kubevirtv1.VirtualMachineRunStrategy) (*kubevirtv1.VirtualMachine, *kubevirtv1.VirtualMachineInstance) {
		vm := testVM(strategy(s))
		return vm, instanceOf(vm, "vmi-uid", kubevirtv1.Running)
	}
	busy, busyInstance := of(manual)
	busy.Status.StateChangeRequests = []kubevirtv1.VirtualMachineStateChangeRequest{{Action: kubevirtv1.StartRequest}}
	gone, goneInstance := of(always)
	gone.DeletionTimestamp = deleting(goneInstance).DeletionTimestamp
	alwaysVM, alwaysInstance := of(always)
	haltedVM, haltedInstance := of(halted)

	for _, c := range []struct {
		name  string
		want  string
		grace *int64
		do    func() (*kubevirtv1.VirtualMachine, Change, error)
	}{
		{"stop by force", "spec Halted", zero, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := StopMachine(alwaysVM, alwaysInstance, kubevirtv1.StopOptions{GracePeriod: zero})
			return alwaysVM, change, err
		}},
		{"stop again, sooner", "status Stop vmi-uid", ten, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := StopMachine(haltedVM, haltedInstance, kubevirtv1.StopOptions{GracePeriod: ten})
			return haltedVM, change, err
		}},
		{"stop again, later", "409 Halted only supports", nil, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := StopMachine(haltedVM, haltedInstance, kubevirtv1.StopOptions{GracePeriod: fifty})
			return haltedVM, change, err
		}},
		{"negative grace", "400 gracePeriod", nil, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := StopMachine(alwaysVM, alwaysInstance, kubevirtv1.StopOptions{GracePeriod: minus})
			return alwaysVM, change, err
		}},
		{"restart by force", "status Stop vmi-uid, Start", zero, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := RestartMachine(alwaysVM, alwaysInstance, kubevirtv1.RestartOptions{GracePeriodSeconds: zero})
			return alwaysVM, change, err
		}},
		{"restart with grace", "400 a forced restart", nil, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := RestartMachine(alwaysVM, alwaysInstance, kubevirtv1.RestartOptions{GracePeriodSeconds: ten})
			return alwaysVM, change, err
		}},
		{"start paused", "400 guests can't start paused", nil, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := StartMachine(haltedVM, nil, kubevirtv1.StartOptions{Paused: true})
			return haltedVM, change, err
		}},
		{"restart while another waits", "409 unable to complete request: stop/start already underway", nil, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := RestartMachine(busy, busyInstance, kubevirtv1.RestartOptions{})
			return busy, change, err
		}},
		{"stop replaces what waits", "status Stop vmi-uid", nil, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := StopMachine(busy, busyInstance, kubevirtv1.StopOptions{})
			return busy, change, err
		}},
		{"start while deleted", "409 VM is being deleted", nil, func() (*kubevirtv1.VirtualMachine, Change, error) {
			change, err := StartMachine(gone, nil, kubevirtv1.StartOptions{})
			return gone, change, err
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm, change, err := c.do()
			if got := answer(vm, change, err); !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if (change.GracePeriod == nil) != (c.grace == nil) || c.grace != nil && *change.GracePeriod != *c.grace {
				t.Errorf("grace period %v, want %v", change.GracePeriod, c.grace)
			}
		})
	}
}
