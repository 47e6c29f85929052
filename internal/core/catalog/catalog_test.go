package catalog

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func ptr[T any](v T) *T { return &v }

func addrList(text ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range text {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// TestFromService sets every field once.
func TestFromService(t *testing.T) {
	created := metav1.NewTime(time.Unix(1_800_000_000, 0))
	in := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web", UID: "u1", CreationTimestamp: created,
			Annotations: map[string]string{TopologyKeysAnnotation: "kubernetes.io/hostname,*"},
		},
		Spec: corev1.ServiceSpec{
			Type:                     corev1.ServiceTypeLoadBalancer,
			ClusterIP:                "10.96.0.20",
			ClusterIPs:               []string{"10.96.0.20", "fd00:10:96::20"},
			ExternalIPs:              []string{"192.0.2.1", "nonsense", "::ffff:192.0.2.2"},
			Selector:                 map[string]string{"app": "web"},
			SessionAffinity:          corev1.ServiceAffinityClientIP,
			SessionAffinityConfig:    &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}},
			ExternalTrafficPolicy:    corev1.ServiceExternalTrafficPolicyLocal,
			InternalTrafficPolicy:    ptr(corev1.ServiceInternalTrafficPolicyLocal),
			HealthCheckNodePort:      30999,
			PublishNotReadyAddresses: true,
			TrafficDistribution:      ptr("PreferSameZone"),
			LoadBalancerSourceRanges: []string{" 203.0.113.7/24 ", "nonsense"},
			Ports: []corev1.ServicePort{
				{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080), NodePort: 30080},
				{Name: "quic", Protocol: corev1.ProtocolUDP, Port: 443},
				{Name: "odd", Protocol: "DCCP", Port: 1},
				{Name: "sig", Protocol: corev1.ProtocolSCTP, Port: 132},
				{Name: "plain", Port: 65535},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{
			{IP: "198.51.100.1"}, {Hostname: "lb.example.com"}, {IP: "2001:db8::1", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}, {IP: "198.51.100.2", IPMode: ptr(corev1.LoadBalancerIPModeVIP)},
		}}},
	}
	want := &Service{
		Name: types.NamespacedName{Namespace: "shop", Name: "web"}, UID: "u1", Created: created.Time, Type: corev1.ServiceTypeLoadBalancer,
		ClusterIPs:  addrList("10.96.0.20", "fd00:10:96::20"),
		ExternalIPs: addrList("192.0.2.1", "192.0.2.2"),
		Ports: []ServicePort{
			{"http", TCP, 80, 30080},
			{"quic", UDP, 443, 0},
			{"sig", SCTP, 132, 0},
			{"plain", TCP, 65535, 0},
		},
		Ingress: []Ingress{
			{netip.MustParseAddr("198.51.100.1"), false},
			{netip.MustParseAddr("2001:db8::1"), true},
			{netip.MustParseAddr("198.51.100.2"), false},
		},
		HasSelector: true, Affinity: time.Minute, ExternalLocal: true, InternalLocal: true,
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}, HealthCheckNodePort: 30999,
		PublishNotReady: true, Distribution: "PreferSameZone", TopologyKeys: []string{"kubernetes.io/hostname", "*"},
		Faults: []Fault{
			{Reason: BadAddress, Field: "spec.externalIPs[1]", Value: "nonsense"},
			{Reason: BadProtocol, Field: "spec.ports[2].protocol", Value: "DCCP"},
			{Reason: BadRange, Field: "spec.loadBalancerSourceRanges[1]", Value: "nonsense"},
		},
	}
	if got := FromService(in); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// TestServiceShapes looks at one matter each.
func TestServiceShapes(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   corev1.Service
		want Service
	}{
		{"nothing set", corev1.Service{}, Service{}},
		{"headless", corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}}, Service{Headless: true}},
		{"clusterIP alone, as old objects have it", corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}}}}, Service{ClusterIPs: addrList("10.96.0.1"), Ports: []ServicePort{{Protocol: TCP, Port: 80}}}},
		{"no ports", corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}}, Service{ClusterIPs: addrList("10.96.0.1"), Faults: []Fault{{Reason: NoPorts, Field: "spec.ports"}}}},
		{"numbers that are no ports", corev1.Service{Spec: corev1.ServiceSpec{
			HealthCheckNodePort: 65536 + 80, Ports: []corev1.ServicePort{{}, {Port: 65536 + 80}, {Port: 80, NodePort: -1}},
		}}, Service{
			Ports: []ServicePort{{Protocol: TCP, Port: 80}},
			Faults: []Fault{
				{Reason: BadPort, Field: "spec.ports[0].port", Value: "0"},
				{Reason: BadPort, Field: "spec.ports[1].port", Value: "65616"},
				{Reason: BadPort, Field: "spec.ports[2].nodePort", Value: "-1"},
				{Reason: BadPort, Field: "spec.healthCheckNodePort", Value: "65616"},
			},
		}},
		{"source ranges of which none can be read admit nobody", corev1.Service{
			Spec:   corev1.ServiceSpec{LoadBalancerSourceRanges: []string{"10.0.0.0"}},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}}},
		}, Service{Faults: []Fault{{Reason: BadRange, Field: "spec.loadBalancerSourceRanges[0]", Value: "10.0.0.0"}}}},
		{"an address that would be every node port", corev1.Service{
			Spec:   corev1.ServiceSpec{ExternalIPs: []string{"0.0.0.0", "::ffff:127.0.0.1"}},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "169.254.169.254"}}}},
		}, Service{Faults: []Fault{
			{Reason: BadAddress, Field: "spec.externalIPs[0]", Value: "0.0.0.0"},
			{Reason: BadAddress, Field: "spec.externalIPs[1]", Value: "::ffff:127.0.0.1"},
			{Reason: BadAddress, Field: "status.loadBalancer.ingress[0].ip", Value: "169.254.169.254"},
		}}},
		{
			"ExternalName forgets the rest",
			corev1.Service{Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.com.", ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Port: 80}},
			}},
			Service{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.com"},
		},
		{"affinity by default", corev1.Service{Spec: corev1.ServiceSpec{SessionAffinity: corev1.ServiceAffinityClientIP}}, Service{Affinity: 3 * time.Hour}},
		{"affinity None with a timeout", corev1.Service{Spec: corev1.ServiceSpec{
			SessionAffinity:       corev1.ServiceAffinityNone,
			SessionAffinityConfig: &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}},
		}}, Service{}},
		{"policies Cluster", corev1.Service{Spec: corev1.ServiceSpec{
			ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyCluster, InternalTrafficPolicy: ptr(corev1.ServiceInternalTrafficPolicyCluster),
		}}, Service{}},
		{"another proxy's", corev1.Service{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"service.kubernetes.io/service-proxy-name": "other"}}}, Service{Foreign: true}},
		{"labelled headless", corev1.Service{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.IsHeadlessService: ""}}}, Service{Foreign: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := FromService(&tt.in); !reflect.DeepEqual(got, &tt.want) {
				t.Errorf("got\n%+v\nwant\n%+v", got, &tt.want)
			}
		})
	}
}

// TestFromSlice sets every field once.
func TestFromSlice(t *testing.T) {
	trigger := time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC)
	in := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "web-abc", Labels: map[string]string{discoveryv1.LabelServiceName: "web"},
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: trigger.Format(time.RFC3339Nano)},
		},
		AddressType: discoveryv1.AddressTypeIPv6,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr("http"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(8080))},
			{Port: ptr(int32(53)), Protocol: ptr(corev1.ProtocolUDP)},
			{Name: ptr("all ports"), Protocol: ptr(corev1.ProtocolTCP)},
			{Name: ptr("odd"), Protocol: ptr(corev1.Protocol("DCCP")), Port: ptr(int32(1))},
		},
		Endpoints: []discoveryv1.Endpoint{
			{
				Addresses: []string{"fd00:10:245::2", "fd00:10:245::3"}, NodeName: ptr("node-a"), Zone: ptr("z1"), Hostname: ptr("web-0"),
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "pod-0"},
				Hints:     &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: "node-a"}}, ForZones: []discoveryv1.ForZone{{Name: "z1"}, {Name: "z2"}}},
			},
			{Addresses: []string{"fd00:10:245::4"}, TargetRef: &corev1.ObjectReference{Kind: "Node", Name: "n"}},
			{Addresses: []string{"nonsense"}},
			{},
		},
	}
	want := &Slice{
		Name: types.NamespacedName{Namespace: "shop", Name: "web-abc"}, Service: types.NamespacedName{Namespace: "shop", Name: "web"},
		IPv6: true, Trigger: trigger,
		Ports: []SlicePort{{"http", TCP, 8080}, {"", UDP, 53}},
		Endpoints: []Endpoint{
			{
				Addr: netip.MustParseAddr("fd00:10:245::2"), Node: "node-a", Zone: "z1", Hostname: "web-0",
				Ready: true, Serving: true, NodeHints: []string{"node-a"}, ZoneHints: []string{"z1", "z2"},
			},
			{Addr: netip.MustParseAddr("fd00:10:245::4"), Ready: true, Serving: true},
		},
		Faults: []Fault{
			{Reason: BadPort, Field: "ports[2].port", Value: "unset"},
			{Reason: BadProtocol, Field: "ports[3].protocol", Value: "DCCP"},
			{Reason: BadAddress, Field: "endpoints[2].addresses", Value: "nonsense"},
			{Reason: BadAddress, Field: "endpoints[3].addresses"},
		},
	}
	if got := FromSlice(in); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}

	orphan := in.DeepCopy()
	orphan.Labels = nil
	if FromSlice(orphan) != nil {
		t.Error("a slice without a Service is none of ours")
	}
	names := in.DeepCopy()
	names.AddressType = discoveryv1.AddressTypeFQDN
	if got := FromSlice(names); len(got.Endpoints) > 0 || len(got.Faults) != 1 || got.Faults[0].Reason != BadAddressType {
		t.Errorf("a slice of names: %+v", got)
	}
	bad := in.DeepCopy()
	bad.Annotations[corev1.EndpointsLastChangeTriggerTime] = "yesterday"
	if got := FromSlice(bad); !got.Trigger.IsZero() {
		t.Errorf("trigger %v", got.Trigger)
	}
}

// TestConditions: a missing ready or serving reads as true, a missing terminating
// as false, each for itself (discovery/v1 EndpointConditions). EP-01
func TestConditions(t *testing.T) {
	yes, no := ptr(true), ptr(false)
	for _, tt := range []struct {
		ready, serving, terminating *bool
		want                        [3]bool
	}{
		{nil, nil, nil, [3]bool{true, true, false}},
		{yes, yes, no, [3]bool{true, true, false}},
		{no, nil, nil, [3]bool{false, true, false}},
		{no, yes, yes, [3]bool{false, true, true}},
		{no, no, nil, [3]bool{false, false, false}},
		{nil, no, yes, [3]bool{true, false, true}},
		{yes, nil, yes, [3]bool{true, true, true}},
	} {
		es := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Endpoints: []discoveryv1.Endpoint{{
				Addresses: []string{"10.245.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: tt.ready, Serving: tt.serving, Terminating: tt.terminating},
			}},
		}
		e := FromSlice(es).Endpoints[0]
		if got := [3]bool{e.Ready, e.Serving, e.Terminating}; got != tt.want {
			t.Errorf("ready %v, serving %v, terminating %v: got %v, want %v", text(tt.ready), text(tt.serving), text(tt.terminating), got, tt.want)
		}
	}
}

func text(b *bool) string {
	switch {
	case b == nil:
		return "unset"
	case *b:
		return "true"
	}
	return "false"
}

// Addresses that packets may not be sent to are left out of a slice, and a port that
// is no number doesn't become another one.
func TestRefusedEndpoints(t *testing.T) {
	es := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: ptr(int32(0))}, {Port: ptr(int32(65536 + 22))}, {Port: ptr(int32(80))}},
	}
	for _, a := range []string{"10.0.0.9", "127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "239.1.2.3", "255.255.255.255", "fd00::1", "::1", "fe80::1%eth0", "fd00::2%x", "10.0.0.1"} {
		es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	got := FromSlice(es)
	var in []netip.Addr
	for _, e := range got.Endpoints {
		in = append(in, e.Addr)
	}
	if want := addrList("10.0.0.1", "10.0.0.9"); !reflect.DeepEqual(in, want) {
		t.Errorf("endpoints %v, want %v", in, want)
	}
	if want := []SlicePort{{Protocol: TCP, Port: 80}}; !reflect.DeepEqual(got.Ports, want) {
		t.Errorf("ports %v, want %v", got.Ports, want)
	}
	reasons := map[FaultReason]int{}
	for _, f := range got.Faults {
		reasons[f.Reason]++
		if f.Endpoint == nil && f.Reason != BadPort {
			t.Errorf("%s %s: no endpoint", f.Field, f.Value)
		}
		if f.Text() == "" || f.Field == "" {
			t.Errorf("%+v says nothing", f)
		}
	}
	if reasons[BadAddress] != 9 || reasons[WrongFamily] != 1 || reasons[BadPort] != 2 {
		t.Errorf("faults %v", reasons)
	}
}

// What conversion costs is the value: nothing is made for faults that aren't there.
func TestConversionAllocates(t *testing.T) {
	es := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: ptr(int32(80))}},
	}
	for i := range 100 {
		es.Endpoints = append(es.Endpoints, discoveryv1.Endpoint{Addresses: []string{netip.AddrFrom4([4]byte{10, 0, 0, byte(200 - i)}).String()}, NodeName: ptr("node-a")})
	}
	if n := testing.AllocsPerRun(100, func() { FromSlice(es) }); n > 3 {
		t.Errorf("a slice of 100 endpoints: %v allocations, want 3", n)
	}
}

func TestFromNode(t *testing.T) {
	labels := map[string]string{corev1.LabelTopologyZone: "z1", "a": "b"}
	got := FromNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", Labels: labels}})
	if !reflect.DeepEqual(got, &Node{Name: "node-a", Labels: labels, Zone: "z1"}) {
		t.Errorf("got %+v", got)
	}
}

func TestProtocolNames(t *testing.T) {
	for p, want := range map[Protocol]string{TCP: "TCP", UDP: "UDP", SCTP: "SCTP", 1: "protocol 1"} {
		if p.String() != want {
			t.Errorf("%d: %s, want %s", uint8(p), p, want)
		}
	}
}
