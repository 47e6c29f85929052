package machine

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Change is what a subresource of a VirtualMachine writes. Either Running or
// RunStrategy (to the spec) or Requests (to the status) is set.
type Change struct {
	Running     *bool
	RunStrategy *kubevirtv1.VirtualMachineRunStrategy
	Requests    []kubevirtv1.VirtualMachineStateChangeRequest
	// GracePeriod, where set, goes into the instance's
	// spec.terminationGracePeriodSeconds before the rest is written.
	GracePeriod *int64
}

// ToStatus says whether Apply changes the status, not the spec.
func (c Change) ToStatus() bool { return c.Requests != nil }

// Apply makes the change to vm. A failed start is forgotten: whoever asks again
// doesn't wait for the back-off.
func (c Change) Apply(vm *kubevirtv1.VirtualMachine) {
	switch {
	case c.ToStatus():
		vm.Status.StateChangeRequests = c.Requests
		vm.Status.StartFailure = nil
	case c.Running != nil:
		vm.Spec.Running = c.Running
	case c.RunStrategy != nil:
		vm.Spec.RunStrategy = c.RunStrategy
	}
}

// StartMachine answers PUT virtualmachines/NAME/start: what to write, or an API
// error (409 Conflict or 400 Bad Request). vmi is nil where there is none.
func StartMachine(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, opts kubevirtv1.StartOptions) (Change, error) {
	strategy, err := strategyOf(vm)
	if err != nil {
		return Change{}, err
	}
	if opts.Paused {
		return Change{}, apierrors.NewBadRequest("guests can't start paused yet; start it without --paused")
	}
	switch {
	case vmi != nil && vmi.DeletionTimestamp != nil:
		return Change{}, refuse(vm, "VM is already running: it is still being stopped; start it when its status is Stopped")
	case isLive(vmi):
		return Change{}, refuse(vm, "VM is already running; to apply changes of its template run \"portico vm restart %s\"", vm.Name)
	}
	switch strategy {
	case kubevirtv1.RunStrategyHalted:
		return switchTo(vm, true), nil
	case kubevirtv1.RunStrategyRerunOnFailure:
		if vmi != nil && vmi.Status.Phase == kubevirtv1.Failed {
			return Change{}, refuse(vm, "RerunOnFailure does not support starting VM from failed state; it starts by itself after its back-off")
		}
	case kubevirtv1.RunStrategyManual:
	case kubevirtv1.RunStrategyAlways:
		return Change{}, refuse(vm, "Always does not support manual start requests; it starts by itself, the status and events say what it waits for")
	case kubevirtv1.RunStrategyOnce:
		return Change{}, refuse(vm, "Once does not support manual start requests; to run it again set spec.runStrategy to Manual and start it")
	default:
		return Change{}, refuse(vm, "%s does not support manual start requests", strategy)
	}
	requests := []kubevirtv1.VirtualMachineStateChangeRequest{{Action: kubevirtv1.StartRequest}}
	if vmi != nil {
		requests = append(stopRequest(vmi), requests...)
	}
	return request(vm, requests)
}

// StopMachine answers PUT virtualmachines/NAME/stop.
//
// Always and Once become Halted whether or not an instance runs, as in KubeVirt:
// a machine that waits in its back-off must be stoppable.
func StopMachine(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, opts kubevirtv1.StopOptions) (Change, error) {
	strategy, err := strategyOf(vm)
	if err != nil {
		return Change{}, err
	}
	if opts.GracePeriod != nil && *opts.GracePeriod < 0 {
		return Change{}, apierrors.NewBadRequest("gracePeriod must not be negative")
	}
	runs := vmi != nil && !vmi.IsFinal()
	var grace *int64
	if runs {
		grace = opts.GracePeriod
	}
	switch strategy {
	case kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyOnce:
		change := switchTo(vm, false)
		change.GracePeriod = grace
		return change, nil
	case kubevirtv1.RunStrategyManual, kubevirtv1.RunStrategyRerunOnFailure:
		if !runs {
			return Change{}, refuse(vm, "VM is not running")
		}
	case kubevirtv1.RunStrategyHalted:
		if !runs {
			return Change{}, refuse(vm, "VM is not running")
		}
		if was := vmi.Spec.TerminationGracePeriodSeconds; grace == nil || was != nil && *grace >= *was {
			return Change{}, refuse(vm, "Halted only supports manual stop requests with a shorter graceperiod; it is being stopped, force it with --force --grace-period=0")
		}
	default:
		return Change{}, refuse(vm, "%s does not support manual stop requests", strategy)
	}
	// A stop replaces whatever waits.
	return Change{Requests: stopRequest(vmi), GracePeriod: grace}, nil
}

// RestartMachine answers PUT virtualmachines/NAME/restart.
func RestartMachine(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, opts kubevirtv1.RestartOptions) (Change, error) {
	strategy, err := strategyOf(vm)
	if err != nil {
		return Change{}, err
	}
	if g := opts.GracePeriodSeconds; g != nil && *g < 0 {
		return Change{}, apierrors.NewBadRequest("gracePeriodSeconds must not be negative")
	} else if g != nil && *g > 0 {
		return Change{}, apierrors.NewBadRequest("a forced restart takes gracePeriodSeconds 0 only")
	}
	switch {
	case strategy == kubevirtv1.RunStrategyHalted:
		return Change{}, refuse(vm, "RunStrategy Halted does not support manual restart requests: the VM doesn't run, and its changes apply at the next start: run \"portico vm start %s\"", vm.Name)
	case strategy == kubevirtv1.RunStrategyOnce:
		return Change{}, refuse(vm, "RunStrategy Once does not support manual restart requests: its changes apply at the next start, which Once has only one of; set spec.runStrategy to Always or Manual")
	case !isLive(vmi) && strategy == kubevirtv1.RunStrategyAlways:
		return Change{}, refuse(vm, "VM is not running; it starts by itself, and its changes apply then")
	case !isLive(vmi):
		return Change{}, refuse(vm, "VM is not running; its changes apply at the next start: run \"portico vm start %s\"", vm.Name)
	case vmi.DeletionTimestamp != nil:
		return Change{}, underway(vm)
	}
	requests := append(stopRequest(vmi), kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StartRequest})
	change, err := request(vm, requests)
	if err == nil {
		change.GracePeriod = opts.GracePeriodSeconds
	}
	return change, err
}

// isLive says whether there is an instance that hasn't ended and that a
// controller has seen.
func isLive(vmi *kubevirtv1.VirtualMachineInstance) bool {
	return vmi != nil && !vmi.IsFinal()
}

func strategyOf(vm *kubevirtv1.VirtualMachine) (kubevirtv1.VirtualMachineRunStrategy, error) {
	if vm.DeletionTimestamp != nil {
		return "", refuse(vm, "VM is being deleted")
	}
	strategy, err := vm.RunStrategy()
	if err != nil {
		return "", apierrors.NewInternalError(fmt.Errorf("VirtualMachine %s/%s: %w", vm.Namespace, vm.Name, err))
	}
	return strategy, nil
}

func switchTo(vm *kubevirtv1.VirtualMachine, running bool) Change {
	if vm.Spec.RunStrategy == nil {
		return Change{Running: &running}
	}
	strategy := kubevirtv1.RunStrategyHalted
	if running {
		strategy = kubevirtv1.RunStrategyAlways
	}
	return Change{RunStrategy: &strategy}
}

func stopRequest(vmi *kubevirtv1.VirtualMachineInstance) []kubevirtv1.VirtualMachineStateChangeRequest {
	uid := vmi.UID
	return []kubevirtv1.VirtualMachineStateChangeRequest{{Action: kubevirtv1.StopRequest, UID: &uid}}
}

func request(vm *kubevirtv1.VirtualMachine, requests []kubevirtv1.VirtualMachineStateChangeRequest) (Change, error) {
	if len(vm.Status.StateChangeRequests) > 0 {
		return Change{}, underway(vm)
	}
	return Change{Requests: requests}, nil
}

func underway(vm *kubevirtv1.VirtualMachine) error {
	return refuse(vm, "unable to complete request: stop/start already underway; try again when it is done")
}

func refuse(vm *kubevirtv1.VirtualMachine, format string, args ...any) error {
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	return apierrors.NewConflict(kubevirtv1.Resource("virtualmachine"), vm.Name, errors.New(text))
}
