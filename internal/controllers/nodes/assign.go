package nodes

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// assign gives pod ranges to the nodes that have none. It works on the store's
// list, the oldest node first, and names the version of the node it writes to:
// two controllers that do this at once come to the same ranges, and the slower
// one's write fails.
func (c *controller) assign(ctx context.Context, node *corev1.Node) error {
	list, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	nodes := list.Items
	slices.SortFunc(nodes, func(a, b corev1.Node) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	var used []netip.Prefix
	for _, n := range nodes {
		for _, text := range n.Spec.PodCIDRs {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				c.Log.Warn("a node has a pod range that is none", "node", n.Name, "range", text)
				continue
			}
			used = append(used, p.Masked())
		}
	}
	for i := range nodes {
		n := &nodes[i]
		if len(n.Spec.PodCIDRs) > 0 || n.DeletionTimestamp != nil {
			continue
		}
		pieces, err := cut(c.Ranges, used)
		if errors.Is(err, errExhausted) {
			c.Log.Warn("a node has no pod range", "node", n.Name, "err", err)
			c.event(node, corev1.EventTypeWarning, "CIDRNotAvailable", err.Error())
			return nil // a node that goes wakes the others
		}
		if err != nil {
			return err
		}
		if err := c.write(ctx, n, pieces); err != nil {
			return err
		}
		used = append(used, pieces...)
	}
	return nil
}

func (c *controller) write(ctx context.Context, node *corev1.Node, pieces []netip.Prefix) error {
	texts := make([]string, len(pieces))
	for i, p := range pieces {
		texts[i] = p.String()
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.ResourceVersion},
		"spec":     map[string]any{"podCIDR": texts[0], "podCIDRs": texts},
	})
	if err != nil {
		return fmt.Errorf("encode the pod ranges of node %s: %w", node.Name, err)
	}
	_, err = c.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("give pod ranges %v to node %s: %w", texts, node.Name, err)
	}
	c.Log.Info("node has pod ranges", "node", node.Name, "ranges", texts)
	return nil
}
