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
		{"clusterIP alone, as old objects have it", corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.1"}}, Service{ClusterIPs: addrList("10.96.0.1")}},
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
				Target: types.NamespacedName{Namespace: "shop", Name: "pod-0"},
				Ready:  true, Serving: true, NodeHints: []string{"node-a"}, ZoneHints: []string{"z1", "z2"},
			},
			{Addr: netip.MustParseAddr("fd00:10:245::4"), Ready: true, Serving: true},
		},
	}
	if got := FromSlice(in); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}

	orphan := in.DeepCopy()
	orphan.Labels = nil
	names := in.DeepCopy()
	names.AddressType = discoveryv1.AddressTypeFQDN
	if FromSlice(orphan) != nil || FromSlice(names) != nil {
		t.Error("a slice without a Service, or of names, is none of ours")
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
