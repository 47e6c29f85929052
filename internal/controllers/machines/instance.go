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

// syncInstance brings one instance and its pod together.
func (c *controller) syncInstance(ctx context.Context, k key) error {
	vmi := cached[kubevirtv1.VirtualMachineInstance](c.instances, k.Namespace, k.Name)
	if vmi == nil {
		return nil // its pod went before: the finalizer saw to that, or the garbage collector does
	}
	pod, err := c.podOf(ctx, vmi)
	if err != nil {
		return err
	}
	if vmi.DeletionTimestamp != nil {
		return c.finishInstance(ctx, vmi, pod)
	}
	if pod == nil && vmi.IsUnprocessed() {
		return c.startInstance(ctx, vmi)
	}
	_, err = c.writeInstanceStatus(ctx, vmi, pod)
	return err
}

// podOf is the instance's pod. A pod that the cache hasn't got is looked for in
// the store before it counts as gone: a lost pod ends its instance.
func (c *controller) podOf(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (*corev1.Pod, error) {
	name := machine.PodName(vmi)
	pod := cached[corev1.Pod](c.pods, vmi.Namespace, name)
	if pod == nil && (vmi.DeletionTimestamp != nil || !vmi.IsUnprocessed() && !vmi.IsFinal()) {
		var err error
		if pod, err = found(c.Client.CoreV1().Pods(vmi.Namespace).Get(ctx, name, metav1.GetOptions{})); err != nil {
			return nil, fmt.Errorf("read pod %s/%s: %w", vmi.Namespace, name, err)
		}
	}
	if pod != nil && !metav1.IsControlledBy(pod, vmi) {
		if vmi.DeletionTimestamp != nil {
			return nil, nil // the instance has none, and may go
		}
		// The name holds a hash of the instance's UID, so somebody made it on purpose.
		return nil, fmt.Errorf("pod %s/%s isn't the instance's; delete it, so that VirtualMachineInstance %s can have its own", pod.Namespace, name, vmi.Name)
	}
	return pod, nil
}

// startInstance creates the pod, if the instance as it is in the store still
// wants one: the cache may not have seen that it has been stopped since.
func (c *controller) startInstance(ctx context.Context, cachedVMI *kubevirtv1.VirtualMachineInstance) error {
	k := key{Namespace: cachedVMI.Namespace, Name: cachedVMI.Name}
	vmi, err := c.liveInstance(ctx, k)
	if err != nil {
		return fmt.Errorf("read VirtualMachineInstance %s: %w", k, err)
	}
	if vmi == nil || vmi.UID != cachedVMI.UID || vmi.DeletionTimestamp != nil || !vmi.IsUnprocessed() {
		return nil // the watch will tell
	}
	if vmi, err = c.addInstanceFinalizer(ctx, vmi); err != nil {
		return err
	}
	pod, err := c.createPod(ctx, vmi)
	if _, statusErr := c.writeInstanceStatus(ctx, vmi, pod); err == nil {
		err = statusErr
	}
	return err
}

func (c *controller) addInstanceFinalizer(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (*kubevirtv1.VirtualMachineInstance, error) {
	if slices.Contains(vmi.Finalizers, machine.InstanceFinalizer) {
		return vmi, nil
	}
	vmi = vmi.DeepCopy()
	vmi.Finalizers = append(vmi.Finalizers, machine.InstanceFinalizer)
	updated, err := c.Machines.VirtualMachineInstances(vmi.Namespace).Update(ctx, vmi, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("add the finalizer to VirtualMachineInstance %s/%s: %w", vmi.Namespace, vmi.Name, err)
	}
	return updated, nil
}

func (c *controller) createPod(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (*corev1.Pod, error) {
	wanted := machine.PodFor(vmi)
	pod, err := c.Client.CoreV1().Pods(vmi.Namespace).Create(ctx, wanted, metav1.CreateOptions{})
	switch {
	case err == nil:
		c.Recorder.Eventf(vmi, corev1.EventTypeNormal, created, "Created virtual machine pod %s", pod.Name)
		return pod, nil
	case apierrors.IsAlreadyExists(err):
		pod, err = c.Client.CoreV1().Pods(vmi.Namespace).Get(ctx, wanted.Name, metav1.GetOptions{})
		if err == nil && !metav1.IsControlledBy(pod, vmi) {
			err = fmt.Errorf("it exists and isn't the instance's; delete it")
		}
		if err == nil {
			return pod, nil
		}
	}
	c.Recorder.Eventf(vmi, corev1.EventTypeWarning, createFailed, "Error creating pod: %v", err)
	return nil, fmt.Errorf("create pod %s/%s: %w", vmi.Namespace, wanted.Name, err)
}

// finishInstance stops the guest of a deleted instance by deleting its pod, and
// lets the instance go once the pod is gone.
func (c *controller) finishInstance(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, pod *corev1.Pod) error {
	if pod == nil {
		return c.removeInstanceFinalizer(ctx, vmi)
	}
	if opts, needed := podDeletion(vmi, pod); needed {
		err := c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, opts)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
		default:
			c.Recorder.Eventf(vmi, corev1.EventTypeNormal, deleted, "Deleted virtual machine pod %s", pod.Name)
		}
	}
	_, err := c.writeInstanceStatus(ctx, vmi, pod) // the pod's end wakes us again
	return err
}

// podDeletion says how to delete the pod, and whether that is (still) needed: a
// pod that is being deleted is deleted once more to cut its time short.
func podDeletion(vmi *kubevirtv1.VirtualMachineInstance, pod *corev1.Pod) (metav1.DeleteOptions, bool) {
	opts := exactly(pod.UID)
	grace := kubevirtv1.DefaultGracePeriodSeconds
	if g := vmi.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		// No node has a guest to stop, if the pod is as we know it.
		grace = 0
		opts.Preconditions.ResourceVersion = &pod.ResourceVersion
	}
	opts.GracePeriodSeconds = &grace
	if pod.DeletionTimestamp == nil {
		return opts, true
	}
	return opts, pod.DeletionGracePeriodSeconds != nil && grace < *pod.DeletionGracePeriodSeconds
}

func (c *controller) removeInstanceFinalizer(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) error {
	if !slices.Contains(vmi.Finalizers, machine.InstanceFinalizer) {
		return nil
	}
	vmi = vmi.DeepCopy()
	vmi.Finalizers = slices.DeleteFunc(vmi.Finalizers, func(f string) bool { return f == machine.InstanceFinalizer })
	if _, err := c.Machines.VirtualMachineInstances(vmi.Namespace).Update(ctx, vmi, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the finalizer of VirtualMachineInstance %s/%s: %w", vmi.Namespace, vmi.Name, err)
	}
	return nil
}

// writeInstanceStatus writes the status if it changed, and an event with each
// change of phase that a person waits for.
func (c *controller) writeInstanceStatus(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, pod *corev1.Pod) (*kubevirtv1.VirtualMachineInstance, error) {
	status := machine.InstanceStatus(vmi, pod, c.Clock.Now())
	if equality.Semantic.DeepEqual(status, vmi.Status) {
		return vmi, nil
	}
	was := vmi.Status.Phase
	vmi = vmi.DeepCopy()
	vmi.Status = status
	updated, err := c.Machines.VirtualMachineInstances(vmi.Namespace).UpdateStatus(ctx, vmi, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("write the status of VirtualMachineInstance %s/%s: %w", vmi.Namespace, vmi.Name, err)
	}
	if was != status.Phase {
		c.phaseEvent(updated, pod)
	}
	return updated, nil
}

func (c *controller) phaseEvent(vmi *kubevirtv1.VirtualMachineInstance, pod *corev1.Pod) {
	switch vmi.Status.Phase {
	case kubevirtv1.Running:
		c.Recorder.Eventf(vmi, corev1.EventTypeNormal, string(kubevirtv1.Started), "The guest was started on node %s", vmi.Status.NodeName)
	case kubevirtv1.Succeeded:
		c.Recorder.Event(vmi, corev1.EventTypeNormal, string(kubevirtv1.Stopped), "The guest was shut down")
	case kubevirtv1.Failed:
		message := "its pod is gone"
		if pod != nil {
			message = pod.Status.Message
		}
		c.Recorder.Eventf(vmi, corev1.EventTypeWarning, "Failed", "The guest ended: %s %s", vmi.Status.Reason, message)
	}
}
