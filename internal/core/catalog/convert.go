package catalog

import (
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TopologyKeysAnnotation carries the legacy field topologyKeys (API-03), comma
// separated.
const TopologyKeysAnnotation = "portico.dev/topology-keys"

// FromService makes the compact value of a Service. What the API's validation
// would never have let in (an address that can't be parsed, an unknown
// protocol) is left out: on a foreign cluster we can't refuse it any more.
func FromService(svc *corev1.Service) *Service {
	s := &Service{
		Name:                types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name},
		UID:                 svc.UID,
		Created:             svc.CreationTimestamp.Time,
		Type:                svc.Spec.Type,
		HasSelector:         len(svc.Spec.Selector) > 0,
		ExternalIPs:         addrs(svc.Spec.ExternalIPs),
		ExternalLocal:       svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		InternalLocal:       svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		HealthCheckNodePort: uint16(svc.Spec.HealthCheckNodePort),
		PublishNotReady:     svc.Spec.PublishNotReadyAddresses,
	}
	if s.Type == corev1.ServiceTypeExternalName {
		s.ExternalName = strings.TrimSuffix(svc.Spec.ExternalName, ".")
		return s
	}
	_, headlessLabel := svc.Labels[corev1.IsHeadlessService]
	s.Headless = svc.Spec.ClusterIP == corev1.ClusterIPNone
	_, proxyName := svc.Labels["service.kubernetes.io/service-proxy-name"]
	s.Foreign = proxyName || headlessLabel
	if !s.Headless {
		s.ClusterIPs = addrs(svc.Spec.ClusterIPs)
		if len(s.ClusterIPs) == 0 {
			s.ClusterIPs = addrs([]string{svc.Spec.ClusterIP})
		}
	}
	for _, p := range svc.Spec.Ports {
		proto, ok := protocol(&p.Protocol)
		if !ok {
			continue
		}
		s.Ports = append(s.Ports, ServicePort{Name: p.Name, Protocol: proto, Port: uint16(p.Port), NodePort: uint16(p.NodePort)})
	}
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			s.Ingress = append(s.Ingress, Ingress{IP: a.Unmap(), Proxy: in.IPMode != nil && *in.IPMode == corev1.LoadBalancerIPModeProxy})
		}
	}
	for _, r := range svc.Spec.LoadBalancerSourceRanges {
		if p, err := netip.ParsePrefix(strings.TrimSpace(r)); err == nil {
			s.SourceRanges = append(s.SourceRanges, p.Masked())
		}
	}
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
		s.TopologyKeys = strings.Split(keys, ",")
	}
	return s
}

// FromSlice makes the compact value of an EndpointSlice, or nil when the slice
// belongs to no Service or holds no IP addresses.
func FromSlice(es *discoveryv1.EndpointSlice) *Slice {
	service := es.Labels[discoveryv1.LabelServiceName]
	if service == "" || es.AddressType == discoveryv1.AddressTypeFQDN {
		return nil
	}
	s := &Slice{
		Name:    types.NamespacedName{Namespace: es.Namespace, Name: es.Name},
		Service: types.NamespacedName{Namespace: es.Namespace, Name: service},
		IPv6:    es.AddressType == discoveryv1.AddressTypeIPv6,
	}
	if t, err := time.Parse(time.RFC3339Nano, es.Annotations[corev1.EndpointsLastChangeTriggerTime]); err == nil {
		s.Trigger = t
	}
	for _, p := range es.Ports {
		proto, ok := protocol(p.Protocol)
		if !ok || p.Port == nil {
			continue
		}
		port := SlicePort{Protocol: proto, Port: uint16(*p.Port)}
		if p.Name != nil {
			port.Name = *p.Name
		}
		s.Ports = append(s.Ports, port)
	}
	for i := range es.Endpoints {
		if e, ok := endpoint(&es.Endpoints[i]); ok {
			s.Endpoints = append(s.Endpoints, e)
		}
	}
	return s
}

// endpoint takes the first address only: the API says the others are fungible
// and no writer sets them (KEP-752).
func endpoint(in *discoveryv1.Endpoint) (Endpoint, bool) {
	if len(in.Addresses) == 0 {
		return Endpoint{}, false
	}
	addr, err := netip.ParseAddr(in.Addresses[0])
	if err != nil {
		return Endpoint{}, false
	}
	// A missing condition reads as the API documents it: ready and serving
	// true, terminating false.
	e := Endpoint{
		Addr:        addr.Unmap(),
		Node:        deref(in.NodeName),
		Zone:        deref(in.Zone),
		Hostname:    deref(in.Hostname),
		Ready:       in.Conditions.Ready == nil || *in.Conditions.Ready,
		Serving:     in.Conditions.Serving == nil || *in.Conditions.Serving,
		Terminating: in.Conditions.Terminating != nil && *in.Conditions.Terminating,
	}
	if t := in.TargetRef; t != nil && t.Kind == "Pod" {
		e.Target = types.NamespacedName{Namespace: t.Namespace, Name: t.Name}
	}
	if in.Hints != nil {
		for _, n := range in.Hints.ForNodes {
			e.NodeHints = append(e.NodeHints, n.Name)
		}
		for _, z := range in.Hints.ForZones {
			e.ZoneHints = append(e.ZoneHints, z.Name)
		}
	}
	return e, true
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

func addrs(in []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		if a, err := netip.ParseAddr(s); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
