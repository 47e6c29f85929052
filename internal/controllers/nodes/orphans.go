package nodes

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// quarantine is how long a Node must be gone before its pods are removed: an agent
// that lives makes its deleted Node anew when it next renews its lease, after 10 s at
// most, and may miss that twice. kube-controller-manager waits as long as gracePeriod.
const quarantine = 30 * time.Second

// clear removes the pods of a node that doesn't exist. No agent will end them, and
// what started them starts others.
func (c *controller) clear(ctx context.Context, node string) error {
	pods, err := c.stranded(node)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		delete(c.lost, node) // pods that come later get their time, too
		return nil
	}
	now := c.Clock.Now()
	since, known := c.lost[node]
	if !known {
		since = now
		c.lost[node] = now
	}
	if left := since.Add(quarantine).Sub(now); left > 0 {
		c.queue.AddAfter(node, left)
		return nil
	}
	// The cache may be behind, and a guest must not run twice.
	_, err = c.Client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err == nil {
		delete(c.lost, node)
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("read Node %s: %w", node, err)
	}
	for _, pod := range pods {
		if err := c.remove(ctx, pod); err != nil {
			return err
		}
	}
	return nil
}

// stranded are the pods bound to a node that are more than their finalizers.
func (c *controller) stranded(node string) (out []*corev1.Pod, err error) {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	for _, pod := range pods {
		seconds := pod.DeletionGracePeriodSeconds
		if pod.Spec.NodeName == node && (pod.DeletionTimestamp == nil || seconds == nil || *seconds > 0) {
			out = append(out, pod)
		}
	}
	return out, nil
}

// remove takes the object away without a grace period, which only a node could use.
// Its status stays as its node wrote it.
func (c *controller) remove(ctx context.Context, pod *corev1.Pod) error {
	opts := metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}
	err := c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, opts)
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // it went, or another has its name
		return nil
	case err != nil:
		return fmt.Errorf("remove pod %s/%s of node %s, which is gone: %w", pod.Namespace, pod.Name, pod.Spec.NodeName, err)
	}
	c.Log.Info("pod removed, for its node is gone", "pod", pod.Namespace+"/"+pod.Name, "node", pod.Spec.NodeName)
	return nil
}
