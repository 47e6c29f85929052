package nodes

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// gracePeriod is how long a node may be silent. Nodes renew their lease every
// 10 s, so this is three signs lost in a row: kube-controller-manager's
// --node-monitor-grace-period of many years.
const gracePeriod = 40 * time.Second

// sign is the last sign of life of a node: what it was, and when it was seen, by
// our clock. The node's clock may be wrong; that its signs change is enough.
type sign struct {
	lease, heartbeat string // as the caches have them
	asked            string // the Lease as the API gave it last, when it had a newer one
	at               time.Time
}

// watchOver marks a silent node, and its pods.
func (c *controller) watchOver(ctx context.Context, node *corev1.Node) error {
	now := c.Clock.Now()
	last := c.sign(node, now)
	left := last.at.Add(gracePeriod).Sub(now)
	if left > 0 {
		c.queue.AddAfter(node.Name, left)
		return nil
	}
	if readyStatus(node) != corev1.ConditionUnknown {
		alive, err := c.ask(ctx, node.Name, now)
		if err != nil {
			return err
		}
		if alive {
			c.queue.AddAfter(node.Name, gracePeriod)
			return nil
		}
		if err := c.markUnknown(ctx, node); err != nil {
			return err
		}
	}
	return c.markPods(ctx, node.Name)
}

// ask looks at a silent node's Lease in the API, and tells whether it was renewed without
// our hearing of it: a watch that stalls must not take a node's guests out of service.
func (c *controller) ask(ctx context.Context, node string, now time.Time) (alive bool, err error) {
	lease, err := c.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(ctx, node, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the Lease of node %s: %w", node, err)
	}
	last, is := c.signs[node], renewal(lease)
	if is == last.lease || is == last.asked {
		return false, nil
	}
	last.asked, last.at = is, now
	c.signs[node] = last
	return true, nil
}

// renewal is when a Lease was renewed last, by its node's clock.
func renewal(lease *coordinationv1.Lease) string {
	if lease.Spec.RenewTime == nil {
		return ""
	}
	return lease.Spec.RenewTime.UTC().Format(time.RFC3339Nano)
}

func (c *controller) sign(node *corev1.Node, now time.Time) sign {
	seen := sign{at: now}
	if lease, err := c.leases.Leases(corev1.NamespaceNodeLease).Get(node.Name); err == nil {
		seen.lease = renewal(lease)
	}
	seen.heartbeat = heartbeat(node)
	if last, known := c.signs[node.Name]; known && last.lease == seen.lease && last.heartbeat == seen.heartbeat {
		if since := c.attention.since(now); last.at.Before(since) {
			last.at = since
			c.signs[node.Name] = last
		}
		return last
	}
	c.signs[node.Name] = seen
	return seen
}

// markUnknown says of all that the node reported that it isn't known any more.
func (c *controller) markUnknown(ctx context.Context, node *corev1.Node) error {
	node = node.DeepCopy()
	ready := false
	for i := range node.Status.Conditions {
		condition := &node.Status.Conditions[i]
		ready = ready || condition.Type == corev1.NodeReady
		if condition.Status != corev1.ConditionUnknown {
			condition.Status, condition.Reason = corev1.ConditionUnknown, "NodeStatusUnknown"
			condition.Message = "The node gave no sign of life for " + gracePeriod.String() + "."
			condition.LastTransitionTime = metav1.NewTime(c.Clock.Now())
		}
	}
	if !ready {
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{
			Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated",
			Message: "The node never gave a sign of life.", LastTransitionTime: metav1.NewTime(c.Clock.Now()),
		})
	}
	updated, err := c.Client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("mark node %s as unknown: %w", node.Name, err)
	}
	// Where the node reported no condition, the one added now isn't a sign of life.
	last := c.signs[node.Name]
	last.heartbeat = heartbeat(updated)
	c.signs[node.Name] = last
	c.Log.Warn("node is silent", "node", node.Name)
	c.event(node, corev1.EventTypeWarning, "NodeNotReady", "Node "+node.Name+" gave no sign of life for "+gracePeriod.String())
	return nil
}

func heartbeat(node *corev1.Node) string {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.LastHeartbeatTime.UTC().Format(time.RFC3339)
		}
	}
	return ""
}

// markPods takes the pods of a silent node out of their Services. When the node
// comes back it says itself which are ready.
func (c *controller) markPods(ctx context.Context, name string) error {
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	for _, pod := range pods {
		if pod.Spec.NodeName != name || !podReady(pod) {
			continue
		}
		pod = pod.DeepCopy()
		for i := range pod.Status.Conditions {
			if condition := &pod.Status.Conditions[i]; condition.Type == corev1.PodReady {
				condition.Status, condition.Reason = corev1.ConditionFalse, "NodeNotReady"
				condition.Message = "its node gave no sign of life for " + gracePeriod.String()
				condition.LastTransitionTime = metav1.NewTime(c.Clock.Now())
			}
		}
		if _, err := c.Client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %s/%s as not ready: %w", pod.Namespace, pod.Name, err)
		}
	}
	return nil
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func readyStatus(node *corev1.Node) corev1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}
