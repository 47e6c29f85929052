package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

const (
	// A start that failed is tried again soon, because the remedy may be a
	// command away, and then ever more rarely.
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// worker looks after one pod.
type worker struct {
	n    *Node
	uid  types.UID
	log  *slog.Logger
	wake chan struct{} // holds a token when pod changed

	mu   sync.Mutex  // guards the following
	pod  *corev1.Pod // nil: gone from the API
	last *corev1.Pod // what it was before; nil: it was gone at once

	// The worker's own.
	load    Workload
	retry   time.Duration // the last pause after a failure
	told    string        // the last failure that an event told
	lost    string        // why there is no workload any more; "" where nothing tells
	stopped bool          // the workload was stopped by us
}

// set hands over a new version of the pod.
func (w *worker) set(pod *corev1.Pod) {
	w.mu.Lock()
	w.pod = pod
	if pod != nil {
		w.last = pod
	}
	w.mu.Unlock()
	w.poke()
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default: // a token is there already
	}
}

func (w *worker) current() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// run works until the pod is gone, with all that was its, or the context ends.
func (w *worker) run(ctx context.Context) {
	<-w.wake // there is a pod, or there is known to be none
	for ctx.Err() == nil {
		done, again := w.step(ctx)
		if done {
			return
		}
		w.sleep(ctx, again)
	}
}

// sleep waits until there may be something to do.
func (w *worker) sleep(ctx context.Context, atMost time.Duration) {
	var changed <-chan struct{}
	if w.load != nil {
		changed = w.load.Changed()
	}
	var timer <-chan time.Time
	if atMost > 0 {
		t := w.n.cfg.Clock.NewTimer(atMost)
		defer t.Stop()
		timer = t.C()
	}
	select {
	case <-ctx.Done():
	case <-w.wake:
	case <-changed:
	case <-timer:
	}
}

// step does the next thing. done: nothing remains of the pod. again: when to look
// again though nothing may have happened; 0: never.
func (w *worker) step(ctx context.Context) (done bool, again time.Duration) {
	pod := w.current()
	var err error
	switch {
	case pod == nil:
		done, err = w.bury(ctx)
	case pod.DeletionTimestamp != nil:
		err = w.terminate(ctx, pod)
	default:
		err = w.keep(ctx, pod)
	}
	if err == nil {
		w.retry = 0
		return done, 0
	}
	if ctx.Err() == nil {
		w.log.Warn("the pod needs another try", "err", err)
	}
	w.retry = min(max(firstRetry, 2*w.retry), lastRetry)
	return false, w.retry
}

// keep makes a pod's workload run and its status true.
func (w *worker) keep(ctx context.Context, pod *corev1.Pod) error {
	n := w.n
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil // for good (pod lifecycle); its remains go with the object
	}
	if !n.cfg.Runtime.Runs(pod) {
		const message = "this node runs the pods of VirtualMachineInstances only; it has no container runtime"
		w.tell(pod, "NoRuntime", message)
		return w.write(ctx, pod, waiting(pod, n.cfg.HostIPs, "NoRuntime", message, n.now()))
	}
	if err := w.find(pod); err != nil {
		return err
	}
	if w.load == nil && pod.Status.Phase == corev1.PodRunning {
		message := cmp.Or(w.lost, ErrLost.Error()+"; its folder was removed while Portico wasn't running")
		w.tell(pod, "GuestLost", message)
		return w.write(ctx, pod, failed(pod, n.cfg.HostIPs, "GuestLost", message, n.now()))
	}
	if w.load == nil {
		if err := w.start(ctx, pod); err != nil {
			return err
		}
	}
	o := w.load.Observe()
	if o.Phase == corev1.PodFailed {
		w.tell(pod, o.Reason, o.Message)
	}
	return w.write(ctx, pod, observed(pod, n.cfg.HostIPs, o, n.now()))
}

// find looks for a workload that the worker doesn't have yet. One that may run unseen is
// neither given up nor started a second time.
func (w *worker) find(pod *corev1.Pod) (err error) {
	if w.load != nil || !w.n.cfg.Runtime.Runs(pod) {
		return nil
	}
	w.lost = ""
	w.load, err = w.n.cfg.Runtime.Find(pod)
	if errors.Is(err, ErrLost) {
		w.lost = err.Error()
		return nil
	}
	if err != nil {
		w.tell(pod, "GuestUnknown", err.Error())
	}
	return err
}

// start begins the workload; a failure goes into the status and an event.
func (w *worker) start(ctx context.Context, pod *corev1.Pod) error {
	load, err := w.n.cfg.Runtime.Start(ctx, pod)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		reason := startReason(err)
		w.tell(pod, reason, err.Error())
		if werr := w.write(ctx, pod, waiting(pod, w.n.cfg.HostIPs, reason, err.Error(), w.n.now())); werr != nil {
			w.log.Warn("the pod's status can't be written", "err", werr)
		}
		return err
	}
	w.load, w.told = load, ""
	w.event(pod, corev1.EventTypeNormal, "Started", "The guest was started.")
	return nil
}

// write patches the status where it differs. Like a kubelet's, the patch is
// strategic, so that conditions of other writers stay, and bound to the UID.
func (w *worker) write(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	before, err := json.Marshal(corev1.Pod{Status: pod.Status})
	if err != nil {
		return err
	}
	after, err := json.Marshal(corev1.Pod{Status: status})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
	if err != nil {
		return fmt.Errorf("compare the status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if string(patch) == "{}" {
		return nil
	}
	patch = append([]byte(fmt.Sprintf(`{"metadata":{"uid":%q},`, pod.UID)), patch[1:]...)
	written, err := w.n.cfg.Client.CoreV1().Pods(pod.Namespace).
		Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil // the watch will tell
	}
	if err != nil {
		return fmt.Errorf("write the status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pod == pod { // nothing newer came meanwhile
		w.pod = written
	}
	return nil
}

// tell makes a warning of a failure, once as long as it stays the same.
func (w *worker) tell(pod *corev1.Pod, reason, message string) {
	if w.told == reason+message {
		return
	}
	w.told = reason + message
	w.event(pod, corev1.EventTypeWarning, reason, message)
}

// event goes to the pod and to what it stands for, which is what people look at.
func (w *worker) event(pod *corev1.Pod, kind, reason, message string) {
	w.n.cfg.Recorder.Event(pod, kind, reason, message)
	if o := metav1.GetControllerOf(pod); o != nil {
		w.n.cfg.Recorder.Event(&corev1.ObjectReference{
			APIVersion: o.APIVersion, Kind: o.Kind, Namespace: pod.Namespace, Name: o.Name, UID: o.UID,
		}, kind, reason, message)
	}
}
