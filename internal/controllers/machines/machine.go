package machines

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/machine"
)

// Reasons of events on machines, named as KubeVirt's.
const (
	created      = "SuccessfulCreate"
	createFailed = "FailedCreate"
	deleted      = "SuccessfulDelete"
	deleteFailed = "FailedDelete"
)

// syncMachine brings one machine and its instance together.
func (c *controller) syncMachine(ctx context.Context, k key) error {
	vm := cached[kubevirtv1.VirtualMachine](c.machines, k.Namespace, k.Name)
	if vm == nil {
		return nil // its instance goes with it: the finalizer saw to that, or the garbage collector does
	}
	vmi := cached[kubevirtv1.VirtualMachineInstance](c.instances, k.Namespace, k.Name)
	if vmi != nil && !machine.IsOwnedBy(vmi, vm) {
		if vm.DeletionTimestamp != nil {
			return c.finishMachine(ctx, vm)
		}
		_, err := c.writeMachineStatus(ctx, vm, nil, nameTaken(vm))
		return err
	}

	// The status comes before the deed: it holds what must not be forgotten when
	// the deed has removed its cause, such as that a failed instance is to be
	// started again. A start forgets nothing and is written with its result.
	seen := vm.DeepCopy()
	seen.Status = machine.MachineStatus(vm, vmi, nil, c.Clock.Now())
	if machine.Desired(seen, vmi, c.Clock.Now()).Action == machine.Start {
		return c.startMachine(ctx, vm)
	}
	vm, err := c.writeMachineStatus(ctx, vm, vmi, nil)
	if err != nil {
		return err
	}
	if vm.DeletionTimestamp != nil {
		return c.finishMachine(ctx, vm)
	}
	decision := machine.Desired(vm, vmi, c.Clock.Now())
	if decision.Action == machine.Stop {
		if err := c.deleteInstance(ctx, vm, vmi, decision.Reason); err != nil {
			return err
		}
	}
	if after := max(decision.After, machine.HealthyAfter(vm, vmi, c.Clock.Now())); after > 0 {
		c.machineQueue.AddAfter(k, after)
	}
	return nil
}

// startMachine creates the instance, if the machine as it is in the store still
// wants one: the cache may not have seen a stop, or that a start was served.
func (c *controller) startMachine(ctx context.Context, cachedVM *kubevirtv1.VirtualMachine) error {
	k := key{Namespace: cachedVM.Namespace, Name: cachedVM.Name}
	vm, err := c.liveMachine(ctx, k)
	if err != nil {
		return fmt.Errorf("start VirtualMachine %s: %w", k, err)
	}
	if vm == nil || vm.UID != cachedVM.UID {
		return nil
	}
	seen := vm.DeepCopy()
	seen.Status = machine.MachineStatus(vm, nil, nil, c.Clock.Now())
	if machine.Desired(seen, nil, c.Clock.Now()).Action != machine.Start {
		return nil // the watch will tell why
	}
	if !slices.Contains(vm.Finalizers, machine.MachineFinalizer) {
		vm.Finalizers = append(vm.Finalizers, machine.MachineFinalizer)
		if vm, err = c.Machines.VirtualMachines(vm.Namespace).Update(ctx, vm, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("add the finalizer to VirtualMachine %s: %w", k, err)
		}
	}
	vmi, failure, err := c.createInstance(ctx, vm)
	if _, statusErr := c.writeMachineStatus(ctx, vm, vmi, failure); err == nil {
		err = statusErr
	}
	return err
}

// createInstance returns the machine's instance, made now or by somebody faster.
func (c *controller) createInstance(ctx context.Context, vm *kubevirtv1.VirtualMachine) (*kubevirtv1.VirtualMachineInstance, *machine.Failure, error) {
	k := key{Namespace: vm.Namespace, Name: vm.Name}
	vmi, err := c.Machines.VirtualMachineInstances(vm.Namespace).Create(ctx, machine.InstanceFor(vm), metav1.CreateOptions{})
	switch {
	case err == nil:
		c.Log.Info("machine started", "machine", k, "instance", vmi.UID)
		c.Recorder.Eventf(vm, corev1.EventTypeNormal, created, "Started the virtual machine by creating the new virtual machine instance %s", vmi.Name)
		return vmi, nil, nil
	case apierrors.IsAlreadyExists(err):
		vmi, err := c.liveInstance(ctx, k)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("read VirtualMachineInstance %s: %w", k, err)
		case vmi == nil:
			return nil, nil, fmt.Errorf("VirtualMachineInstance %s was there and is gone again", k)
		case !machine.IsOwnedBy(vmi, vm):
			return nil, nameTaken(vm), nil
		}
		return vmi, nil, nil
	}
	c.Recorder.Eventf(vm, corev1.EventTypeWarning, createFailed, "Error creating virtual machine instance: %v", err)
	return nil, &machine.Failure{Reason: createFailed, Message: err.Error()}, fmt.Errorf("create VirtualMachineInstance %s: %w", k, err)
}

func (c *controller) deleteInstance(ctx context.Context, vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, reason string) error {
	err := c.Machines.VirtualMachineInstances(vmi.Namespace).Delete(ctx, vmi.Name, exactly(vmi.UID))
	switch {
	case gone(err):
		return nil
	case err != nil:
		c.Recorder.Eventf(vm, corev1.EventTypeWarning, deleteFailed, "Error deleting virtual machine instance %s: %v", vmi.Name, err)
		return fmt.Errorf("delete VirtualMachineInstance %s/%s: %w", vmi.Namespace, vmi.Name, err)
	}
	c.Log.Info("machine stopped", "machine", key{Namespace: vm.Namespace, Name: vm.Name}, "instance", vmi.UID, "reason", reason)
	c.Recorder.Eventf(vm, corev1.EventTypeNormal, deleted, "Stopped the virtual machine by deleting the virtual machine instance %s: %s", vmi.UID, reason)
	return nil
}

// finishMachine lets a deleted machine go once its instance is gone, as the
// store, not the cache, has it: an instance overlooked here would run on while
// its addresses are given to others.
func (c *controller) finishMachine(ctx context.Context, vm *kubevirtv1.VirtualMachine) error {
	k := key{Namespace: vm.Namespace, Name: vm.Name}
	if !slices.Contains(vm.Finalizers, machine.MachineFinalizer) ||
		slices.Contains(vm.Finalizers, metav1.FinalizerOrphanDependents) {
		return nil // nothing to wait for, or the garbage collector cuts the instance loose first
	}
	vmi, err := c.liveInstance(ctx, k)
	if err != nil {
		return fmt.Errorf("read VirtualMachineInstance %s: %w", k, err)
	}
	if vmi != nil && machine.IsOwnedBy(vmi, vm) {
		if vmi.DeletionTimestamp == nil {
			return c.deleteInstance(ctx, vm, vmi, "the machine is being deleted")
		}
		return nil // its end wakes us
	}
	vm = vm.DeepCopy()
	vm.Finalizers = slices.DeleteFunc(vm.Finalizers, func(f string) bool { return f == machine.MachineFinalizer })
	if _, err := c.Machines.VirtualMachines(vm.Namespace).Update(ctx, vm, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the finalizer of VirtualMachine %s: %w", k, err)
	}
	return nil
}

// writeMachineStatus writes the status if it changed, and returns the machine
// with it.
//
// That a request was served is decided on the instance as the store has it. A
// cache may still hold the one before, and a start would be taken for served by
// the instance that the stop before it has removed. The write fails if the
// machine changed since it was read, so the request and the instance that served
// it are of one time.
func (c *controller) writeMachineStatus(ctx context.Context, vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, failure *machine.Failure) (*kubevirtv1.VirtualMachine, error) {
	status := machine.MachineStatus(vm, vmi, failure, c.Clock.Now())
	if !equality.Semantic.DeepEqual(status.StateChangeRequests, vm.Status.StateChangeRequests) {
		live, err := c.liveInstance(ctx, key{Namespace: vm.Namespace, Name: vm.Name})
		if err != nil {
			return nil, fmt.Errorf("read VirtualMachineInstance %s/%s: %w", vm.Namespace, vm.Name, err)
		}
		if live != nil && !machine.IsOwnedBy(live, vm) {
			live = nil
		}
		status = machine.MachineStatus(vm, live, failure, c.Clock.Now())
	}
	if equality.Semantic.DeepEqual(status, vm.Status) {
		return vm, nil
	}
	vm = vm.DeepCopy()
	vm.Status = status
	updated, err := c.Machines.VirtualMachines(vm.Namespace).UpdateStatus(ctx, vm, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("write the status of VirtualMachine %s/%s: %w", vm.Namespace, vm.Name, err)
	}
	return updated, nil
}

func nameTaken(vm *kubevirtv1.VirtualMachine) *machine.Failure {
	return &machine.Failure{
		Reason:  createFailed,
		Message: fmt.Sprintf("a VirtualMachineInstance named %s exists that isn't this machine's; delete it, or give the machine another name", vm.Name),
	}
}
