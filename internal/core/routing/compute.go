package routing

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"portico.dev/portico/internal/core/catalog"
)

// Compute gives all frontends of one Service as node must serve them. A Service
// without a cluster IP (headless, ExternalName) and one that another proxy
// serves has none. Of a Service's own frontends with one key the first in the
// order cluster IP, external IP, load-balancer IP is kept.
func Compute(node *catalog.Node, svc *catalog.Service, slices []*catalog.Slice) []Frontend {
	if svc == nil || svc.Foreign || svc.Headless || svc.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	c := computation{svc: svc, taken: map[Key]bool{}}
	for _, port := range svc.Ports {
		for _, ip := range svc.ClusterIPs { // one per family of the Service
			c.port(port, ip, choose(node, svc.TopologyKeys, port, slices, ip.Is6()))
		}
	}
	return c.out
}

// computation collects the frontends of one Service.
type computation struct {
	svc   *catalog.Service
	taken map[Key]bool
	out   []Frontend
}

// port adds the frontends of one Service port in the family of ip, which is the
// Service's cluster IP there.
func (c *computation) port(port catalog.ServicePort, ip netip.Addr, ch *choice) {
	c.add(port, ClusterIP, ip, port.Port, ch, c.internal(ch))
	external := c.external(ch)
	for _, a := range c.svc.ExternalIPs {
		if a.Is6() == ip.Is6() {
			c.add(port, ExternalIP, a, port.Port, ch, external)
		}
	}
	for _, in := range c.svc.Ingress {
		// With ipMode Proxy the load balancer must see every packet (KEP-1860).
		if in.IP.Is6() == ip.Is6() && !in.Proxy {
			c.add(port, LoadBalancerIP, in.IP, port.Port, ch, external)
		}
	}
	if port.NodePort != 0 {
		any := netip.IPv4Unspecified()
		if ip.Is6() {
			any = netip.IPv6Unspecified()
		}
		c.add(port, NodePort, any, port.NodePort, ch, external)
	}
}

func (c *computation) add(port catalog.ServicePort, kind Kind, addr netip.Addr, number uint16, ch *choice, v [Origins]Verdict) {
	key := Key{Addr: addr, Protocol: port.Protocol, Port: number}
	if c.taken[key] {
		return
	}
	c.taken[key] = true
	f := Frontend{
		Key: key, Kind: kind, Service: c.svc.Name, UID: c.svc.UID, Created: c.svc.Created,
		PortName: port.Name, Sets: &ch.Sets, Verdicts: v, Affinity: c.svc.Affinity,
	}
	if kind == LoadBalancerIP {
		f.SourceRanges = c.svc.SourceRanges
	}
	c.out = append(c.out, f)
}

// internal gives the verdicts of a cluster IP. internalTrafficPolicy binds every
// origin (KEP-2086). Without it only packets from outside may need masquerade:
// workloads' and the node's own source addresses lead back here from any node.
func (c *computation) internal(ch *choice) (v [Origins]Verdict) {
	if c.svc.InternalLocal {
		local := ch.local("internalTrafficPolicy")
		return [Origins]Verdict{local, local, local}
	}
	v[Workload] = ch.cluster(false)
	v[Node] = ch.cluster(false)
	v[Outside] = ch.cluster(true)
	return v
}

// external gives the verdicts of node ports, external and load-balancer
// addresses. externalTrafficPolicy Local is for packets from outside only: own
// workloads and the node are short-circuited to the cluster set.
func (c *computation) external(ch *choice) (v [Origins]Verdict) {
	v[Workload] = ch.cluster(false)
	v[Node] = ch.cluster(true)
	if c.svc.ExternalLocal {
		v[Outside] = ch.local("externalTrafficPolicy")
	} else {
		v[Outside] = ch.cluster(true)
	}
	return v
}
