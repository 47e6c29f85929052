package loadbalancers

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/pools"
)

// begin makes the allocator anew where pools, nodes or namespaces have changed, with what
// the Services have, the oldest first, and has all of them looked at.
func (c *controller) begin() {
	c.mu.Lock()
	config := c.config
	c.mu.Unlock()
	if config == nil {
		return
	}
	c.known = make(map[string]*core.IPAddressPool, len(config.Pools))
	for _, p := range config.Pools {
		c.known[p.Name] = p
	}
	reserved := c.reserved()
	basis := c.describe(config, reserved)
	if c.allocator != nil && basis == c.basis {
		return
	}
	var set *pools.Set
	set, c.faults = pools.Parse(config, reserved...)
	c.basis = basis
	c.allocator = pools.NewAllocator(set)
	ours := c.ours()
	for _, svc := range ours {
		c.allocator.Hold(svc)
	}
	c.changes = c.allocator.Changes()
	for _, svc := range ours {
		c.queue.Add(nameOf(svc))
	}
	for _, obj := range c.services.List() {
		if svc := obj.(*corev1.Service); leftBehind(svc) {
			c.queue.Add(nameOf(svc))
		}
	}
}

// ours gives the Services that want an address, the oldest first, as they were last
// written.
func (c *controller) ours() []*corev1.Service {
	var out []*corev1.Service
	for _, obj := range c.services.List() {
		if svc := c.newest(obj.(*corev1.Service)); wants(svc) {
			out = append(out, svc)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
	})
	return out
}

// reserved are the cluster's ranges and what is the nodes' own.
func (c *controller) reserved() []pools.Reserved {
	var out []pools.Reserved
	if c.ranges != nil {
		for _, obj := range inOrder(c.ranges) {
			out = append(out, pools.OfServiceCIDR(obj.(*networkingv1.ServiceCIDR))...)
		}
	}
	if len(out) == 0 {
		for _, prefix := range c.Default {
			out = append(out, pools.Reserved{Prefix: prefix, What: "the cluster IPs of Services (--service-cidr)"})
		}
	}
	out = append(out, c.Reserved...)
	for _, obj := range inOrder(c.nodes) {
		out = append(out, pools.OfNode(obj.(*corev1.Node))...)
	}
	return out
}

// inOrder gives the objects of a kind without namespaces by name.
func inOrder(indexer cache.Indexer) []any {
	var out []any
	for _, key := range slices.Sorted(slices.Values(indexer.ListKeys())) {
		if obj, ok, err := indexer.GetByKey(key); ok && err == nil {
			out = append(out, obj)
		}
	}
	return out
}

// describe has in it all that the allocator's answers depend on, but for the Services.
// The pools' own status isn't among it: we write that.
func (c *controller) describe(config *core.Config, reserved []pools.Reserved) string {
	var b strings.Builder
	for _, p := range config.Pools {
		fmt.Fprintf(&b, "%s %s %d\n", p.Name, p.UID, p.Generation)
	}
	fmt.Fprintln(&b, reserved)
	if slices.ContainsFunc(config.Pools, func(p *core.IPAddressPool) bool {
		return p.Spec.ServiceAllocation != nil && len(p.Spec.ServiceAllocation.NamespaceSelectors) > 0
	}) {
		for _, key := range slices.Sorted(slices.Values(c.namespaces.ListKeys())) {
			fmt.Fprintln(&b, key, c.labelsOf(key)) // fmt sorts maps
		}
	}
	return b.String()
}

func (c *controller) labelsOf(namespace string) map[string]string {
	if obj, ok, err := c.namespaces.GetByKey(namespace); ok && err == nil {
		return obj.(*corev1.Namespace).Labels
	}
	return nil
}

// tryAgain queues the Services that may now get what they didn't, the oldest first.
func (c *controller) tryAgain() {
	list := slices.SortedFunc(maps.Keys(c.refused), func(a, b types.NamespacedName) int {
		return cmp.Or(c.age(a).Compare(c.age(b)), strings.Compare(a.String(), b.String()))
	})
	for _, name := range list {
		c.queue.Add(name)
	}
}
