package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// orphanGrace is for workloads whose pod was removed by force: the cluster
	// believes that they are gone, so their addresses may be given away.
	orphanGrace = 10 * time.Second
	// handOffAllowance is added to what remains of the grace period when the
	// stop begins, so that the hand-off doesn't eat the guest's time.
	handOffAllowance = 5 * time.Second
)

// terminate ends a deleted pod: out of the endpoints, then the power button,
// then the object (VM-07). It may begin in the middle: whatever is done already
// passes at once.
func (w *worker) terminate(ctx context.Context, pod *corev1.Pod) error {
	n := w.n
	if err := w.find(pod); err != nil {
		return err
	}
	if w.load != nil && w.load.Observe().Phase == corev1.PodRunning {
		if err := w.stop(ctx, pod); err != nil {
			return err
		}
	}
	if w.load != nil {
		o := w.load.Observe()
		if err := w.write(ctx, pod, observed(pod, n.cfg.HostIPs, o, n.now())); err != nil {
			return err
		}
		if err := w.load.Remove(); err != nil {
			return err
		}
		w.load = nil
	}
	none := int64(0)
	err := n.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &none, Preconditions: &metav1.Preconditions{UID: &pod.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove the ended pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// stop takes the pod out of service and ends its workload.
func (w *worker) stop(ctx context.Context, pod *corev1.Pod) error {
	n := w.n
	o := w.load.Observe()
	o.Ready, o.Reason, o.Message = false, "Terminating", "the pod is being deleted"
	if err := w.write(ctx, pod, observed(pod, n.cfg.HostIPs, o, n.now())); err != nil {
		return err
	}
	if n.cfg.HandOff != nil && !w.stopped {
		if err := n.cfg.HandOff(ctx, pod); err != nil && ctx.Err() == nil {
			w.log.Warn("the pod ends though traffic may still reach it", "err", err)
		}
	}
	if !w.stopped {
		w.event(pod, corev1.EventTypeNormal, "Stopping", "The guest's power button is pressed.")
		w.stopped = true
	}
	return w.await(ctx, w.grace(pod))
}

// grace is the period that was asked for, or what remains of it when an earlier
// daemon began.
func (w *worker) grace(pod *corev1.Pod) time.Duration {
	var asked time.Duration
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		asked = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		asked = time.Duration(*pod.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	// deletionTimestamp is when the period is over.
	remains := pod.DeletionTimestamp.Sub(w.n.cfg.Clock.Now()) + handOffAllowance
	return max(0, min(asked, remains))
}

// await stops the workload and meanwhile listens whether somebody shortens the
// grace period or removes the pod by force.
func (w *worker) await(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.load.Stop(ctx, grace) }()
	defer func() {
		cancel()
		if ended != nil {
			<-ended
		}
	}()
	for {
		select {
		case err := <-ended:
			ended = nil
			return err
		case <-w.wake:
			defer w.poke() // the next step must hear of it, too
			shorter := time.Duration(0)
			if pod := w.current(); pod != nil {
				shorter = w.grace(pod)
			}
			if shorter < grace/2 {
				// The first Stop ends together with this one.
				return w.load.Stop(ctx, shorter)
			}
		}
	}
}

// bury ends what is left of a pod that is gone from the API. It may have gone before the
// worker looked for its workload, or while that couldn't be told.
func (w *worker) bury(ctx context.Context) (done bool, err error) {
	w.mu.Lock()
	last := w.last
	w.mu.Unlock()
	if w.load == nil && last != nil && w.n.cfg.Runtime.Runs(last) {
		if w.load, err = w.n.cfg.Runtime.Find(last); err != nil {
			w.load = nil // unknown, or lost
		}
	}
	if w.load == nil {
		var controller types.UID
		if last != nil {
			o := metav1.GetControllerOf(last)
			if o == nil {
				return true, nil // nothing that is unknown was its
			}
			controller = o.UID
		}
		err := w.n.endUnknown(ctx, controller)
		return err == nil, err
	}
	if w.load.Observe().Phase == corev1.PodRunning {
		w.log.Info("stopping a workload whose pod is gone")
		if err := w.load.Stop(ctx, orphanGrace); err != nil {
			return false, err
		}
	}
	if err := w.load.Remove(); err != nil {
		return false, err
	}
	w.load = nil
	return true, nil
}
