package mesh

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is what routes need of a Node.
type Node struct {
	Name      string
	Addresses []netip.Addr   // at most one of each family, by which the other nodes reach it
	PodCIDRs  []netip.Prefix // likewise
	Created   time.Time      // of two that claim one range the older has it
}

// FromNode makes the compact value of a Node. What can't be read is left out: the node
// gets no routes for it.
func FromNode(n *corev1.Node) *Node {
	out := &Node{Name: n.Name, Created: n.CreationTimestamp.UTC()}
	for _, a := range n.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if err != nil || a.Type != corev1.NodeInternalIP || family(out.Addresses, addr.Unmap().Is6()).IsValid() {
			continue
		}
		if addr = addr.Unmap(); addr.IsGlobalUnicast() {
			out.Addresses = append(out.Addresses, addr)
		}
	}
	for _, s := range n.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(s); err == nil && p == p.Masked() && !rangeOf(out.PodCIDRs, p.Addr().Is6()).IsValid() {
			out.PodCIDRs = append(out.PodCIDRs, p)
		}
	}
	return out
}

// Guest is a pod that has addresses of its own, wherever it runs.
type Guest struct {
	Name    types.NamespacedName
	Node    string
	Addrs   []netip.Addr
	Leaving bool      // it is being deleted: another pod with the address takes over
	Since   time.Time // when it was created: of two that claim one address the younger has it
}

// FromPod makes the compact value of a pod; nil for one that has no address to route: it
// isn't bound or has none yet, it has ended, or it uses its node's own.
func FromPod(pod *corev1.Pod) *Guest {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	if ended || pod.Spec.NodeName == "" || pod.Spec.HostNetwork {
		return nil
	}
	g := &Guest{
		Name: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, Node: pod.Spec.NodeName,
		Leaving: pod.DeletionTimestamp != nil, Since: pod.CreationTimestamp.UTC(),
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			g.Addrs = append(g.Addrs, a.Unmap())
		}
	}
	if len(g.Addrs) == 0 {
		return nil
	}
	return g
}

// Equal tells whether two values of a pod mean the same.
func (g *Guest) Equal(o *Guest) bool {
	return g.Name == o.Name && g.Node == o.Node && g.Leaving == o.Leaving && g.Since.Equal(o.Since) && slices.Equal(g.Addrs, o.Addrs)
}

// Equal tells whether two values of a Node mean the same.
func (n *Node) Equal(o *Node) bool {
	return n.Name == o.Name && n.Created.Equal(o.Created) && slices.Equal(n.Addresses, o.Addresses) && slices.Equal(n.PodCIDRs, o.PodCIDRs)
}

// MAC is a node's hardware address on its tunnels. Every node knows it by the name, so
// that nobody asks. It is locally administered, and no guest's begins so.
func MAC(node string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(node))
	return append(net.HardwareAddr{0x0a}, sum[:5]...)
}

// family picks the address of one family; it is invalid when there is none.
func family(addrs []netip.Addr, ipv6 bool) netip.Addr {
	for _, a := range addrs {
		if a.Is6() == ipv6 {
			return a
		}
	}
	return netip.Addr{}
}

// rangeOf picks the range of one family; it is invalid when there is none.
func rangeOf(list []netip.Prefix, ipv6 bool) netip.Prefix {
	for _, p := range list {
		if p.Addr().Is6() == ipv6 {
			return p
		}
	}
	return netip.Prefix{}
}

// own is a node's own address of its pod range, the first after the network's: the next
// hop of what travels to it by VXLAN, and the source of what it sends itself.
func own(p netip.Prefix) netip.Addr {
	if !p.IsValid() {
		return netip.Addr{}
	}
	return p.Masked().Addr().Next()
}
