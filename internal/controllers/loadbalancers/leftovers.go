package loadbalancers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/announce/statuses"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// leftoversAgain is when dead nodes' objects are looked at again: another node may have
// taken what they had.
const leftoversAgain = time.Minute

// removeLeftovers removes what nodes said of their announcements that can't take it back:
// all of a node that is gone, and of a dead one what another node says as well. A node
// that only the API took for dead writes its own again.
func (c *controller) removeLeftovers(ctx context.Context) error {
	said := map[schema.GroupVersionResource][]unstructured.Unstructured{}
	for _, resource := range []schema.GroupVersionResource{metallb.ServiceL2Statuses, metallb.ServiceBGPStatuses, metallb.ConfigurationStates} {
		list, err := c.Dynamic.Resource(resource).Namespace(core.Namespace).List(ctx, metav1.ListOptions{LabelSelector: core.NodeLabel(resource.Resource)})
		if err != nil {
			return fmt.Errorf("list %s: %w", resource.Resource, err)
		}
		said[resource] = list.Items
	}
	alive, known, err := c.presentNodes(ctx)
	if err != nil {
		return err
	}
	again := false
	for resource, objects := range said {
		label := core.NodeLabel(resource.Resource)
		elsewhere := map[types.NamespacedName]bool{} // a living node announces the Service
		for i := range objects {
			if o := &objects[i]; alive[o.GetLabels()[label]] {
				elsewhere[serviceOf(o)] = true
			}
		}
		for i := range objects {
			o := &objects[i]
			node := o.GetLabels()[label]
			switch {
			case alive[node]:
			case known[node] && (resource == metallb.ConfigurationStates || !elsewhere[serviceOf(o)]):
				again = true
			default:
				if err := metallb.Delete(ctx, c.Dynamic, resource, o.GetName()); err != nil {
					return err
				}
			}
		}
	}
	if again {
		c.queue.AddAfter(leftovers, leftoversAgain)
	}
	return nil
}

// presentNodes asks the API which nodes there are, by the value of their label. The cache
// may not have a new Node yet whose objects were listed already.
func (c *controller) presentNodes(ctx context.Context) (alive, known map[string]bool, err error) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("list nodes: %w", err)
	}
	alive, known = map[string]bool{}, map[string]bool{}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		name := core.LabelValue(n.Name)
		known[name], alive[name] = true, !isDead(n)
	}
	return alive, known, nil
}

// isDead tells whether a node hasn't been heard from: its Ready condition is Unknown then.
func isDead(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionUnknown
		}
	}
	return false
}

func serviceOf(status *unstructured.Unstructured) types.NamespacedName {
	l := status.GetLabels()
	return types.NamespacedName{Namespace: l[statuses.LabelServiceNamespace], Name: l[statuses.LabelServiceName]}
}
