package machine

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Failure is why the controller couldn't do what Desired said.
type Failure struct {
	Reason  string // CamelCase
	Message string
}

// MachineStatus is the status of a machine whose instance is vmi (nil: none).
// Requests that were served go, ends are counted for the back-off, and
// everything else says how the instance is.
func MachineStatus(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, failure *Failure, now time.Time) kubevirtv1.VirtualMachineStatus {
	status := *vm.Status.DeepCopy()
	status.Created = vmi != nil
	status.StateChangeRequests = pendingRequests(status.StateChangeRequests, vmi)
	strategy, err := vm.RunStrategy()
	if err != nil {
		failure = &Failure{"InvalidRunStrategy", err.Error()}
	}
	// The strategy counts as recorded once it has brought about an instance:
	// RerunOnFailure starts a machine exactly if it didn't.
	if vmi != nil || strategy != kubevirtv1.RunStrategyRerunOnFailure {
		status.RunStrategy = strategy
	}
	status.StartFailure = startFailure(vm, vmi, strategy, now)
	if reruns(vmi, strategy) && len(status.StateChangeRequests) == 0 {
		status.StateChangeRequests = append(stopRequest(vmi), kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StartRequest})
	}
	setGenerations(&status, vm, vmi)

	// What follows looks at the new requests and failures.
	seen := vm.DeepCopy()
	seen.Status = status
	status.PrintableStatus = printableStatus(seen, vmi, strategy, now)
	status.Conditions = machineConditions(seen, vmi, failure, now)
	status.Ready = vmi != nil && hasCondition(vmi, kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue)
	return status
}

// reruns says whether RerunOnFailure must remember to start again: the failed
// instance is deleted, and its failure with it.
func reruns(vmi *kubevirtv1.VirtualMachineInstance, strategy kubevirtv1.VirtualMachineRunStrategy) bool {
	return strategy == kubevirtv1.RunStrategyRerunOnFailure && vmi != nil && vmi.DeletionTimestamp == nil && vmi.Status.Phase == kubevirtv1.Failed
}

// startFailure counts the ends of instances that start again by themselves. An
// instance that ran for long sets the count back; one that the user stopped
// (its deletion comes before its end) or whose pod was taken away doesn't count.
func startFailure(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, strategy kubevirtv1.VirtualMachineRunStrategy, now time.Time) *kubevirtv1.VirtualMachineStartFailure {
	f := vm.Status.StartFailure
	ended := false
	switch strategy {
	case kubevirtv1.RunStrategyAlways:
		ended = vmi != nil && vmi.IsFinal()
	case kubevirtv1.RunStrategyRerunOnFailure:
		ended = vmi != nil && vmi.Status.Phase == kubevirtv1.Failed
	default:
		return nil
	}
	ran, since := ranFor(vmi, now)
	switch {
	case vmi == nil || vmi.DeletionTimestamp != nil:
		return f
	case !ended && ran && since >= backOffReset:
		return nil
	case !ended, takenAway(vmi), f != nil && f.LastFailedVMIUID == vmi.UID:
		return f
	}
	count := 1
	if f != nil && (!ran || since < backOffReset) {
		count = f.ConsecutiveFailCount + 1
	}
	retry := metav1.NewTime(now.Add(backOff(count, ran)))
	return &kubevirtv1.VirtualMachineStartFailure{ConsecutiveFailCount: count, LastFailedVMIUID: vmi.UID, RetryAfterTimestamp: &retry}
}

// HealthyAfter is how long from now an instance must go on running for the
// machine's failures to be forgotten; 0 if there is nothing to wait for.
func HealthyAfter(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, now time.Time) time.Duration {
	if vm.Status.StartFailure == nil || vmi == nil || vmi.IsFinal() {
		return 0
	}
	ran, since := ranFor(vmi, now)
	if !ran {
		return 0
	}
	return max(0, backOffReset-since)
}

// ranFor says whether the guest ever ran, and for how long: to its end, or now.
func ranFor(vmi *kubevirtv1.VirtualMachineInstance, now time.Time) (ran bool, since time.Duration) {
	if vmi == nil {
		return false, 0
	}
	var start time.Time
	for _, t := range vmi.Status.PhaseTransitionTimestamps {
		switch t.Phase {
		case kubevirtv1.Running:
			start = t.PhaseTransitionTimestamp.Time
		case kubevirtv1.Succeeded, kubevirtv1.Failed:
			now = t.PhaseTransitionTimestamp.Time
		}
	}
	if start.IsZero() {
		return false, 0
	}
	return true, now.Sub(start)
}

// printableStatus is the word in the STATUS column.
func printableStatus(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, strategy kubevirtv1.VirtualMachineRunStrategy, now time.Time) kubevirtv1.VirtualMachinePrintableStatus {
	live := isLive(vmi)
	switch {
	case vm.DeletionTimestamp != nil:
		return kubevirtv1.VirtualMachineStatusTerminating
	case live && (vmi.DeletionTimestamp != nil || strategy == kubevirtv1.RunStrategyHalted || stopRequested(vm, vmi.UID)):
		return kubevirtv1.VirtualMachineStatusStopping
	case live && vmi.IsUnknown():
		return kubevirtv1.VirtualMachineStatusUnknown
	case live && hasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused, corev1.ConditionTrue):
		return kubevirtv1.VirtualMachineStatusPaused
	case live && vmi.IsRunning():
		return kubevirtv1.VirtualMachineStatusRunning
	case live && hasCondition(vmi, podScheduled, corev1.ConditionFalse):
		return kubevirtv1.VirtualMachineStatusUnschedulable
	case live && vmi.IsUnprocessed():
		return kubevirtv1.VirtualMachineStatusProvisioning
	case live:
		return kubevirtv1.VirtualMachineStatusStarting
	case backOffLeft(vm, now) > 0:
		return kubevirtv1.VirtualMachineStatusCrashLoopBackOff
	}
	if vmi == nil || vmi.DeletionTimestamp != nil || strategy == kubevirtv1.RunStrategyAlways {
		if starts, _ := startsWithoutInstance(vm, strategy); starts {
			return kubevirtv1.VirtualMachineStatusStarting
		}
	}
	return kubevirtv1.VirtualMachineStatusStopped
}

// machineConditions are the instance's conditions, which KubeVirt shows on the
// machine too, and the machine's own.
func machineConditions(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, failure *Failure, now time.Time) []kubevirtv1.VirtualMachineCondition {
	wanted := []kubevirtv1.VirtualMachineCondition{{
		Type: kubevirtv1.VirtualMachineReady, Status: corev1.ConditionFalse, Reason: "VMINotExists", Message: "the machine has no instance",
	}}
	if vmi != nil {
		wanted[0].Reason, wanted[0].Message = kubevirtv1.GuestNotRunningReason, "the instance has no status yet"
		for _, c := range vmi.Status.Conditions {
			copied := kubevirtv1.VirtualMachineCondition{
				Type: kubevirtv1.VirtualMachineConditionType(c.Type), Status: c.Status, Reason: c.Reason, Message: c.Message,
			}
			if c.Type == kubevirtv1.VirtualMachineInstanceReady {
				wanted[0] = copied
			} else {
				wanted = append(wanted, copied)
			}
		}
	}
	if failure != nil {
		wanted = append(wanted, kubevirtv1.VirtualMachineCondition{
			Type: kubevirtv1.VirtualMachineFailure, Status: corev1.ConditionTrue, Reason: failure.Reason, Message: failure.Message,
		})
	} else if f := vm.Status.StartFailure; f != nil && f.RetryAfterTimestamp != nil && backOffLeft(vm, now) > 0 {
		wanted = append(wanted, kubevirtv1.VirtualMachineCondition{
			Type: kubevirtv1.VirtualMachineFailure, Status: corev1.ConditionTrue, Reason: "BackOff",
			Message: fmt.Sprintf("instances ended %d times in a row; the next start is at %s", f.ConsecutiveFailCount, f.RetryAfterTimestamp.UTC().Format(time.RFC3339)),
		})
	}
	for _, c := range []*kubevirtv1.VirtualMachineCondition{restartRequired(vm, vmi), labelsPending(vm, vmi)} {
		if c != nil {
			wanted = append(wanted, *c)
		}
	}
	for i := range wanted {
		wanted[i].LastTransitionTime = metav1.NewTime(now)
		if wanted[i].Type == kubevirtv1.VirtualMachineFailure {
			wanted[i].LastProbeTime = metav1.NewTime(now)
		}
		for _, old := range vm.Status.Conditions {
			if old.Type == wanted[i].Type && old.Status == wanted[i].Status {
				wanted[i].LastTransitionTime = old.LastTransitionTime
				settle(&wanted[i], old, now)
			}
		}
	}
	return wanted
}

// failureQuiet is how long a failure's message stands although its words changed.
// Messages may hold a number that is new at every attempt; each rewritten status is
// an event that starts the next attempt, so that back-off would never be reached.
const failureQuiet = 10 * time.Second

// settle keeps the old message of a lasting failure for a while.
func settle(c *kubevirtv1.VirtualMachineCondition, old kubevirtv1.VirtualMachineCondition, now time.Time) {
	if c.Type != kubevirtv1.VirtualMachineFailure || c.Reason != old.Reason {
		return
	}
	c.LastProbeTime = old.LastProbeTime
	switch {
	case c.Message == old.Message:
	case now.Sub(old.LastProbeTime.Time) < failureQuiet:
		c.Message = old.Message
	default:
		c.LastProbeTime = metav1.NewTime(now)
	}
}

// setGenerations says which version of the machine the instance was made from,
// and which one is wanted. A change that doesn't touch the template leaves them
// equal.
func setGenerations(status *kubevirtv1.VirtualMachineStatus, vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance) {
	status.DesiredGeneration = vm.Generation
	status.ObservedGeneration = vm.Generation
	if vmi == nil || restartRequired(vm, vmi) == nil && labelsPending(vm, vmi) == nil {
		return
	}
	if made, err := strconv.ParseInt(vmi.Annotations[kubevirtv1.VirtualMachineGenerationAnnotation], 10, 64); err == nil {
		status.ObservedGeneration = made
	}
}

func hasCondition(vmi *kubevirtv1.VirtualMachineInstance, kind kubevirtv1.VirtualMachineInstanceConditionType, status corev1.ConditionStatus) bool {
	return slices.ContainsFunc(vmi.Status.Conditions, func(c kubevirtv1.VirtualMachineInstanceCondition) bool {
		return c.Type == kind && c.Status == status
	})
}
