package service

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// PrepareForCreate brings a new Service into the shape that is stored: no status,
// clusterIP and clusterIPs in step, and families and policy filled in. What is
// contradictory stays as it is, for Validate to report.
func (c Cluster) PrepareForCreate(svc *corev1.Service) {
	svc.Status = corev1.ServiceStatus{}
	if svc.Spec.ClusterIP != "" && len(svc.Spec.ClusterIPs) == 0 {
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
	c.applyFamilies(svc, nil)
}

// PrepareForUpdate does the same with an update. Values that we allocated and the
// client left out are carried over, so that the manifest which created a Service can
// be sent again (API-08). Fields that belong to the old type only and that the client
// left as they were are cleared (API-05). Status is the old one.
func (c Cluster) PrepareForUpdate(svc, old *corev1.Service) {
	svc.Status = *old.Status.DeepCopy()
	carryOver(svc, old)
	syncClusterIPs(svc, old)
	clearOldType(svc, old)
	c.applyFamilies(svc, old)
}

// PrepareForStatusUpdate keeps everything but status and metadata.
func PrepareForStatusUpdate(svc, old *corev1.Service) {
	svc.Spec = *old.Spec.DeepCopy()
}

func carryOver(svc, old *corev1.Service) {
	spec, was := &svc.Spec, &old.Spec
	if TakesClusterIPs(old) && TakesClusterIPs(svc) {
		if spec.ClusterIP == "" {
			spec.ClusterIP = was.ClusterIP
		}
		if len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = slices.Clone(was.ClusterIPs)
		}
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = slices.Clone(was.IPFamilies)
		}
	}
	// Where node ports are optional, leaving one out is how it is given up.
	if TakesNodePorts(old) && NeedsNodePorts(svc) {
		carryNodePorts(spec.Ports, was.Ports)
	}
	if NeedsHealthCheckNodePort(old) && NeedsHealthCheckNodePort(svc) && spec.HealthCheckNodePort == 0 {
		spec.HealthCheckNodePort = was.HealthCheckNodePort
	}
}

// nodePortKey identifies a node port inside one Service: two protocols may share a
// number (ALLOC-02).
type nodePortKey struct {
	protocol corev1.Protocol
	number   int32
}

// carryNodePorts gives ports without a node port the one they had: first by name,
// then by protocol and port, so that naming a port (as a second one demands) doesn't
// move it. A number that the client uses elsewhere in the Service isn't given twice.
func carryNodePorts(ports, was []corev1.ServicePort) {
	used := map[nodePortKey]bool{}
	for _, p := range ports {
		used[nodePortKey{p.Protocol, p.NodePort}] = true
	}
	carry := func(same func(p, w *corev1.ServicePort) bool) {
		for i := range ports {
			p := &ports[i]
			if p.NodePort != 0 {
				continue
			}
			for j := range was {
				key := nodePortKey{p.Protocol, was[j].NodePort}
				if key.number != 0 && same(p, &was[j]) && !used[key] {
					p.NodePort, used[key] = key.number, true
					break
				}
			}
		}
	}
	carry(func(p, w *corev1.ServicePort) bool { return p.Name == w.Name })
	carry(func(p, w *corev1.ServicePort) bool { return p.Protocol == w.Protocol && p.Port == w.Port })
}

// syncClusterIPs settles what a client meant that changed only one of clusterIP and
// clusterIPs. Clients older than dual-stack know the first alone; newer ones must
// write both.
func syncClusterIPs(svc, old *corev1.Service) {
	spec, was := &svc.Spec, &old.Spec
	if spec.ClusterIP == was.ClusterIP || !slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
		return
	}
	if spec.ClusterIP == "" {
		spec.ClusterIPs = nil
		return
	}
	spec.ClusterIPs = []string{spec.ClusterIP}
}

// clearOldType wipes what the new type has no use for, if we may have filled it in
// and the client didn't touch it: whoever changes such a field at the same time gets
// an error instead. What only users write (a selector, source ranges) is theirs to
// remove.
func clearOldType(svc, old *corev1.Service) {
	spec, was := &svc.Spec, &old.Spec
	if TakesClusterIPs(old) && !TakesClusterIPs(svc) {
		clearClusterIPs(spec, was)
	}
	if TakesNodePorts(old) && !TakesNodePorts(svc) && !hasNewNodePort(spec.Ports, was.Ports) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if NeedsHealthCheckNodePort(old) && !NeedsHealthCheckNodePort(svc) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if externallyAccessible(old) && !externallyAccessible(svc) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if isLoadBalancer(old) && !isLoadBalancer(svc) {
		if samePtr(spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if samePtr(spec.LoadBalancerClass, was.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if !isLoadBalancer(svc) {
		svc.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

func clearClusterIPs(spec, was *corev1.ServiceSpec) {
	if spec.ClusterIP == was.ClusterIP && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
		spec.ClusterIP, spec.ClusterIPs = "", nil
	}
	if slices.Equal(spec.IPFamilies, was.IPFamilies) {
		spec.IPFamilies = nil
	}
	if samePtr(spec.IPFamilyPolicy, was.IPFamilyPolicy) {
		spec.IPFamilyPolicy = nil
	}
}

// hasNewNodePort: ports may be added, removed and renamed in the same update, as long
// as no node port turns up that the Service didn't have.
func hasNewNodePort(ports, was []corev1.ServicePort) bool {
	for _, p := range ports {
		if p.NodePort != 0 && !slices.ContainsFunc(was, func(w corev1.ServicePort) bool { return w.NodePort == p.NodePort }) {
			return true
		}
	}
	return false
}
