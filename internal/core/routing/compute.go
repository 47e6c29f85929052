package routing

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"portico.dev/portico/internal/core/catalog"
)

// Computer computes frontends in memory that it uses again, so that what a change
// costs is its result. The zero value is ready. It isn't safe for concurrent use.
type Computer struct {
	all, spare []candidate // the port at hand; spare is what runs are merged into
	runs       []int       // where sorted runs of all begin
	left       []LeftOut

	svc *catalog.Service
	out []Frontend
}

// Compute is that of a Computer, for a single use.
func Compute(node *catalog.Node, svc *catalog.Service, from []*catalog.Slice) []Frontend {
	return new(Computer).Compute(node, svc, from)
}

// Compute gives all frontends of one Service as node must serve them. A Service
// without a cluster IP (headless, ExternalName) and one that another proxy
// serves has none. Of a Service's own frontends with one key the first in the
// order cluster IP, load-balancer IP, external IP is kept: an address that is both of the
// last stays closed by source ranges, however it is claimed.
func (c *Computer) Compute(node *catalog.Node, svc *catalog.Service, from []*catalog.Slice) []Frontend {
	if svc == nil || svc.Foreign || svc.Headless || svc.Type == corev1.ServiceTypeExternalName || len(svc.Ports) == 0 || len(svc.ClusterIPs) == 0 {
		return nil
	}
	c.svc, c.out = svc, make([]Frontend, 0, doors(svc))
	sets := make([]Sets, len(svc.Ports)*len(svc.ClusterIPs))
	for _, port := range svc.Ports {
		for _, ip := range svc.ClusterIPs { // one per family of the Service
			ch := c.choose(&sets[0], node, svc.TopologyKeys, port, from, ip.Is6())
			sets = sets[1:]
			c.port(port, ip, &ch)
			c.forget()
		}
	}
	out := c.out
	c.svc, c.out = nil, nil
	return out
}

// forget lets go of the endpoints, which a later version replaces. Together all, and
// those that stood twice among left, are what spare held too.
func (c *Computer) forget() {
	n := len(c.all) + len(c.left)
	clear(c.all[:min(n, cap(c.all))])
	clear(c.spare[:min(n, cap(c.spare))])
	clear(c.left)
}

// doors is how many frontends a Service has at most.
func doors(svc *catalog.Service) int {
	n := 0
	for _, ip := range svc.ClusterIPs {
		n++
		for _, a := range svc.ExternalIPs {
			if a.Is6() == ip.Is6() {
				n++
			}
		}
		for _, in := range svc.Ingress {
			if in.IP.Is6() == ip.Is6() && !in.Proxy {
				n++
			}
		}
	}
	n *= len(svc.Ports)
	for _, p := range svc.Ports {
		if p.NodePort != 0 {
			n += len(svc.ClusterIPs)
		}
	}
	return n
}

// port adds the frontends of one Service port in the family of ip, which is the
// Service's cluster IP there.
func (c *Computer) port(port catalog.ServicePort, ip netip.Addr, ch *choice) {
	c.add(port, ClusterIP, ip, port.Port, ch, c.internal(ch))
	external := c.external(ch)
	for _, in := range c.svc.Ingress {
		// With ipMode Proxy the load balancer must see every packet (KEP-1860).
		if in.IP.Is6() == ip.Is6() && !in.Proxy {
			c.add(port, LoadBalancerIP, in.IP, port.Port, ch, external)
		}
	}
	for _, a := range c.svc.ExternalIPs {
		if a.Is6() == ip.Is6() {
			c.add(port, ExternalIP, a, port.Port, ch, external)
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

func (c *Computer) add(port catalog.ServicePort, kind Kind, addr netip.Addr, number uint16, ch *choice, v [Origins]Verdict) {
	key := Key{Addr: addr, Protocol: port.Protocol, Port: number}
	if find(c.out, key) != nil {
		return
	}
	f := Frontend{
		Key: key, Kind: kind, Service: c.svc.Name, UID: c.svc.UID, Created: c.svc.Created,
		PortName: port.Name, Sets: ch.Sets, Verdicts: v, Affinity: c.svc.Affinity, Scheduler: c.svc.Scheduler,
	}
	if kind == LoadBalancerIP {
		f.SourceRanges = c.svc.SourceRanges
	}
	c.out = append(c.out, f)
}

// internal gives the verdicts of a cluster IP. internalTrafficPolicy binds every
// origin (KEP-2086). Without it only packets from outside may need masquerade:
// workloads' and the node's own source addresses lead back here from any node.
func (c *Computer) internal(ch *choice) (v [Origins]Verdict) {
	if c.svc.InternalLocal {
		local := ch.local(InternalPolicy, InternalElsewhere)
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
func (c *Computer) external(ch *choice) (v [Origins]Verdict) {
	v[Workload] = ch.cluster(false)
	v[Node] = ch.cluster(true)
	if c.svc.ExternalLocal {
		v[Outside] = ch.local(ExternalPolicy, ExternalElsewhere)
	} else {
		v[Outside] = ch.cluster(true)
	}
	return v
}
