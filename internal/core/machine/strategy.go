package machine

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// strategies are the run strategies there are, WaitAsReceiver left out.
var strategies = []kubevirtv1.VirtualMachineRunStrategy{
	kubevirtv1.RunStrategyAlways,
	kubevirtv1.RunStrategyHalted,
	kubevirtv1.RunStrategyManual,
	kubevirtv1.RunStrategyRerunOnFailure,
	kubevirtv1.RunStrategyOnce,
}

// Action is what the controller does to a machine's instance.
type Action int

const (
	// Leave everything as it is.
	Leave Action = iota
	// Start: create the instance.
	Start
	// Stop: delete the instance. A restart is a Stop whose next decision is Start.
	Stop
)

func (a Action) String() string { return [...]string{"leave", "start", "stop"}[a] }

// Decision is what to do now, and when to ask again if nothing happens before.
type Decision struct {
	Action Action
	// Reason says why, for logs and events.
	Reason string
	// After is set when the decision changes by the mere passing of time.
	After time.Duration
}

// The back-off of a machine whose instances end again and again is that of a
// pod's containers: kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle,
// "How Pods handle problems with containers".
const (
	backOffFirst = 10 * time.Second
	backOffMax   = 5 * time.Minute
	// backOffReset is how long an instance runs to be counted as healthy.
	backOffReset = 10 * time.Minute
)

// Desired decides what to do with a machine whose instance is vmi (nil: none).
// vm.Status must be what MachineStatus made of the same pair: requests that were
// served are gone from it, and failures are counted in it.
func Desired(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, now time.Time) Decision {
	if vmi != nil && vmi.DeletionTimestamp != nil {
		return Decision{Leave, "the instance is being stopped", 0}
	}
	if vm.DeletionTimestamp != nil {
		if vmi != nil {
			return Decision{Stop, "the machine is being deleted", 0}
		}
		return Decision{Leave, "the machine is being deleted", 0}
	}
	strategy, err := vm.RunStrategy()
	if err != nil {
		return Decision{Leave, err.Error(), 0} // validation doesn't let it come to this
	}
	if vmi != nil {
		return desiredOfInstance(vm, vmi, strategy)
	}
	starts, reason := startsWithoutInstance(vm, strategy)
	if !starts {
		return Decision{Leave, reason, 0}
	}
	if wait := backOffLeft(vm, now); wait > 0 {
		return Decision{Leave, fmt.Sprintf("back-off: the next start is in %s", wait.Round(time.Second)), wait}
	}
	return Decision{Start, reason, 0}
}

func desiredOfInstance(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, strategy kubevirtv1.VirtualMachineRunStrategy) Decision {
	if strategy == kubevirtv1.RunStrategyHalted {
		return Decision{Stop, "the run strategy is Halted", 0}
	}
	if stopRequested(vm, vmi.UID) {
		return Decision{Stop, "a stop or restart was requested", 0}
	}
	if !vmi.IsFinal() {
		return Decision{Leave, "the instance is there", 0}
	}
	switch strategy {
	case kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyRerunOnFailure:
		return Decision{Stop, fmt.Sprintf("the instance ended (%s)", vmi.Status.Phase), 0}
	default:
		// Manual and Once keep an instance that ended: it shows how it ended, and
		// to Once it is the memory of having run.
		return Decision{Leave, fmt.Sprintf("the instance ended (%s) and the run strategy is %s", vmi.Status.Phase, strategy), 0}
	}
}

func startsWithoutInstance(vm *kubevirtv1.VirtualMachine, strategy kubevirtv1.VirtualMachineRunStrategy) (starts bool, reason string) {
	switch strategy {
	case kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyOnce:
		return true, fmt.Sprintf("the run strategy is %s", strategy)
	case kubevirtv1.RunStrategyManual:
		return startRequested(vm), "the run strategy is Manual"
	case kubevirtv1.RunStrategyRerunOnFailure:
		// A machine that comes from another strategy starts; one that ended well or
		// was stopped waits for a request.
		return startRequested(vm) || vm.Status.RunStrategy != strategy, "the run strategy is RerunOnFailure"
	default:
		return false, fmt.Sprintf("the run strategy is %s", strategy)
	}
}

// stopRequested says whether the next request is to stop the instance with uid.
func stopRequested(vm *kubevirtv1.VirtualMachine, uid types.UID) bool {
	r := vm.Status.StateChangeRequests
	return len(r) > 0 && r[0].Action == kubevirtv1.StopRequest && r[0].UID != nil && *r[0].UID == uid
}

func startRequested(vm *kubevirtv1.VirtualMachine) bool {
	r := vm.Status.StateChangeRequests
	return len(r) > 0 && r[0].Action == kubevirtv1.StartRequest
}

// pendingRequests are the requests that aren't served yet. A stop is served when
// its instance is going or gone; a start, when there is an instance that stays.
func pendingRequests(requests []kubevirtv1.VirtualMachineStateChangeRequest, vmi *kubevirtv1.VirtualMachineInstance) []kubevirtv1.VirtualMachineStateChangeRequest {
	stays := vmi != nil && vmi.DeletionTimestamp == nil
	for len(requests) > 0 {
		first := requests[0]
		switch {
		case first.Action == kubevirtv1.StopRequest && stays && first.UID != nil && *first.UID == vmi.UID,
			first.Action == kubevirtv1.StartRequest && !stays:
			return requests
		}
		requests = requests[1:]
	}
	return nil
}

func backOffLeft(vm *kubevirtv1.VirtualMachine, now time.Time) time.Duration {
	f := vm.Status.StartFailure
	if f == nil || f.RetryAfterTimestamp == nil {
		return 0
	}
	return max(0, f.RetryAfterTimestamp.Sub(now))
}

// backOff is the wait after the n-th end in a row (from 1). A guest that ran at
// all starts again at once the first time: most often somebody switched it off
// from within, or it crashed once.
func backOff(n int, ran bool) time.Duration {
	if ran {
		n--
	}
	if n <= 0 {
		return 0
	}
	wait := backOffFirst
	for range n - 1 {
		if wait *= 2; wait >= backOffMax {
			return backOffMax
		}
	}
	return wait
}
