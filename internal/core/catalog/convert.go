package catalog

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TopologyKeysAnnotation carries the legacy field topologyKeys (API-03), comma
// separated.
const TopologyKeysAnnotation = "portico.dev/topology-keys"

// SchedulerAnnotation chooses how IPVS picks a Service's backends, where that is the data
// plane.
const SchedulerAnnotation = "portico.dev/ipvs-scheduler"

// Schedulers are those of the kernel's IPVS; each is in a module ip_vs_NAME.
func Schedulers() []string {
	return []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "mh", "dh", "sed", "nq", "fo", "ovf"}
}

// FromService makes the compact value of a Service. What can't be served of it
// is left out and noted in Faults: on a foreign cluster we can't refuse it.
func FromService(svc *corev1.Service) *Service {
	s := &Service{
		Name:            types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name},
		UID:             svc.UID,
		Created:         svc.CreationTimestamp.Time,
		Type:            svc.Spec.Type,
		HasSelector:     len(svc.Spec.Selector) > 0,
		ExternalLocal:   svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		InternalLocal:   svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		PublishNotReady: svc.Spec.PublishNotReadyAddresses,
	}
	_, headlessLabel := svc.Labels[corev1.IsHeadlessService]
	_, proxyName := svc.Labels["service.kubernetes.io/service-proxy-name"]
	var faults faultList
	if s.Type == corev1.ServiceTypeExternalName {
		s.ExternalName = strings.TrimSuffix(svc.Spec.ExternalName, ".")
		return s
	}
	s.ExternalIPs = faults.addrs("spec.externalIPs", svc.Spec.ExternalIPs)
	s.Foreign = proxyName || headlessLabel
	s.Headless = svc.Spec.ClusterIP == corev1.ClusterIPNone
	if !s.Headless {
		s.ClusterIPs = faults.addrs("spec.clusterIPs", svc.Spec.ClusterIPs)
		if len(svc.Spec.ClusterIPs) == 0 && svc.Spec.ClusterIP != "" { // as old objects have it
			s.ClusterIPs = faults.addrs("spec.clusterIP", []string{svc.Spec.ClusterIP})
		}
	}
	s.ports(&faults, svc.Spec.Ports)
	s.balancer(&faults, svc)
	if svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		s.Affinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			s.Affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	if svc.Spec.TrafficDistribution != nil {
		s.Distribution = *svc.Spec.TrafficDistribution
	}
	if keys := svc.Annotations[TopologyKeysAnnotation]; keys != "" {
		for key := range strings.SplitSeq(keys, ",") {
			s.TopologyKeys = append(s.TopologyKeys, strings.TrimSpace(key))
		}
	}
	if name := svc.Annotations[SchedulerAnnotation]; slices.Contains(Schedulers(), name) {
		s.Scheduler = name
	} else if name != "" {
		faults.add(BadScheduler, name, "metadata.annotations[%s]", SchedulerAnnotation)
	}
	s.Faults = faults
	return s
}

func (s *Service) ports(faults *faultList, from []corev1.ServicePort) {
	for i := range from {
		p := &from[i]
		proto, ok := protocol(&p.Protocol)
		if !ok {
			faults.add(BadProtocol, p.Protocol, "spec.ports[%d].protocol", i)
			continue
		}
		number, ok := portNumber(p.Port)
		if !ok {
			faults.add(BadPort, p.Port, "spec.ports[%d].port", i)
			continue
		}
		port := ServicePort{Name: p.Name, Protocol: proto, Port: number}
		if p.NodePort != 0 {
			if port.NodePort, ok = portNumber(p.NodePort); !ok { // the port's other doors stay open
				faults.add(BadPort, p.NodePort, "spec.ports[%d].nodePort", i)
			}
		}
		s.Ports = append(s.Ports, port)
	}
	if len(from) == 0 && len(s.ClusterIPs) > 0 {
		faults.add(NoPorts, "", "spec.ports")
	}
}

// balancer reads what concerns load-balancer addresses. Where source ranges were
// asked for and none can be read, nobody is admitted: the addresses aren't served.
func (s *Service) balancer(faults *faultList, svc *corev1.Service) {
	if s.Type == corev1.ServiceTypeLoadBalancer {
		s.Labels = svc.Labels
	}
	if n := svc.Spec.HealthCheckNodePort; n != 0 {
		var ok bool
		if s.HealthCheckNodePort, ok = portNumber(n); !ok {
			faults.add(BadPort, n, "spec.healthCheckNodePort")
		}
	}
	for i, r := range svc.Spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(r))
		if err != nil {
			faults.add(BadRange, r, "spec.loadBalancerSourceRanges[%d]", i)
			continue
		}
		s.SourceRanges = append(s.SourceRanges, p.Masked())
	}
	open := len(svc.Spec.LoadBalancerSourceRanges) == 0 || len(s.SourceRanges) > 0
	for i := range svc.Status.LoadBalancer.Ingress {
		in := &svc.Status.LoadBalancer.Ingress[i]
		if in.IP == "" {
			continue // a host name: not for us
		}
		a, ok := parseAddr(in.IP)
		if !ok {
			faults.add(BadAddress, in.IP, "status.loadBalancer.ingress[%d].ip", i)
			continue
		}
		if open {
			s.Ingress = append(s.Ingress, Ingress{IP: a, Proxy: in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy})
		}
	}
}

// FromSlice makes the compact value of an EndpointSlice, or nil when the slice
// belongs to no Service. What can't be served of it is left out and noted in
// Faults.
func FromSlice(es *discoveryv1.EndpointSlice) *Slice {
	service := es.Labels[discoveryv1.LabelServiceName]
	if service == "" {
		return nil
	}
	s := &Slice{
		Name:    types.NamespacedName{Namespace: es.Namespace, Name: es.Name},
		Service: types.NamespacedName{Namespace: es.Namespace, Name: service},
		IPv6:    es.AddressType == discoveryv1.AddressTypeIPv6,
	}
	var faults faultList
	if es.AddressType == discoveryv1.AddressTypeFQDN {
		faults.add(BadAddressType, es.AddressType, "addressType")
		s.Faults = faults
		return s
	}
	if text := es.Annotations[corev1.EndpointsLastChangeTriggerTime]; text != "" {
		if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
			s.Trigger = t
		}
	}
	s.ports(&faults, es.Ports)
	s.endpoints(&faults, es.Endpoints)
	s.Faults = faults
	return s
}

func (s *Slice) ports(faults *faultList, from []discoveryv1.EndpointPort) {
	for i := range from {
		p := &from[i]
		proto, ok := protocol(p.Protocol)
		switch {
		case !ok:
			faults.add(BadProtocol, *p.Protocol, "ports[%d].protocol", i)
			continue
		case p.Port == nil: // "all ports", which a Service can't use
			faults.add(BadPort, "unset", "ports[%d].port", i)
			continue
		}
		number, ok := portNumber(*p.Port)
		if !ok {
			faults.add(BadPort, *p.Port, "ports[%d].port", i)
			continue
		}
		s.Ports = append(s.Ports, SlicePort{Name: deref(p.Name), Protocol: proto, Port: number})
	}
}

// endpoints takes the endpoints in the order of their addresses: then the ones of
// all slices of a Service are merged by going through them once.
func (s *Slice) endpoints(faults *faultList, from []discoveryv1.Endpoint) {
	if len(from) == 0 {
		return
	}
	s.Endpoints = make([]Endpoint, 0, len(from))
	for i := range from {
		e, reason := s.endpoint(&from[i])
		if reason == 0 {
			s.Endpoints = append(s.Endpoints, e)
			continue
		}
		value := ""
		if len(from[i].Addresses) > 0 {
			value = from[i].Addresses[0]
		}
		faults.add(reason, value, "endpoints[%d].addresses", i)
		if e.Addr.IsValid() {
			refused := e // a copy, so that e itself stays off the heap
			(*faults)[len(*faults)-1].Endpoint = &refused
		}
	}
	slices.SortFunc(s.Endpoints, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
}

// endpoint takes the first address only: the API says the others are fungible
// and no writer sets them (KEP-752). A reason other than 0 says why it can't be
// served.
func (s *Slice) endpoint(in *discoveryv1.Endpoint) (Endpoint, FaultReason) {
	// A missing condition reads as the API documents it: ready and serving
	// true, terminating false.
	e := Endpoint{
		Node:        deref(in.NodeName),
		Zone:        deref(in.Zone),
		Hostname:    deref(in.Hostname),
		Ready:       in.Conditions.Ready == nil || *in.Conditions.Ready,
		Serving:     in.Conditions.Serving == nil || *in.Conditions.Serving,
		Terminating: in.Conditions.Terminating != nil && *in.Conditions.Terminating,
	}
	if in.Hints != nil {
		for _, n := range in.Hints.ForNodes {
			e.NodeHints = append(e.NodeHints, n.Name)
		}
		for _, z := range in.Hints.ForZones {
			e.ZoneHints = append(e.ZoneHints, z.Name)
		}
	}
	if len(in.Addresses) == 0 {
		return e, BadAddress
	}
	addr, err := netip.ParseAddr(in.Addresses[0])
	if err != nil {
		return e, BadAddress
	}
	e.Addr = addr.Unmap()
	switch {
	case !usable(e.Addr):
		return e, BadAddress
	case e.Addr.Is6() != s.IPv6:
		return e, WrongFamily
	}
	return e, 0
}

// FromNode makes the compact value of a Node.
func FromNode(n *corev1.Node) *Node {
	return &Node{Name: n.Name, Labels: n.Labels, Zone: n.Labels[corev1.LabelTopologyZone]}
}

func protocol(p *corev1.Protocol) (Protocol, bool) {
	if p == nil || *p == "" {
		return TCP, true
	}
	switch *p {
	case corev1.ProtocolTCP:
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	case corev1.ProtocolSCTP:
		return SCTP, true
	}
	return 0, false
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
