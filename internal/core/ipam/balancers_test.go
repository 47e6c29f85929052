package ipam

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/pools"
)

func balanced(uid, sharing string, addrs string, ports ...int32) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Annotations: map[string]string{pools.SharingAnnotation: sharing}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	for _, addr := range strings.Fields(addrs) {
		svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr})
	}
	for _, p := range ports {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Port: p, Protocol: corev1.ProtocolTCP})
	}
	return svc
}

// LB-01: what a Service claims by its status, and which keys of others stand against it.
func TestBalancerClaims(t *testing.T) {
	own := BalancerClaims(balanced("u1", "", "192.0.2.1 2001:db8:0::1", 80, 443))
	want := []string{"lb/192.0.2.1/u1/TCP/80", "lb/192.0.2.1/u1/TCP/443", "lb/2001:db8::1/u1/TCP/80", "lb/2001:db8::1/u1/TCP/443"}
	if !slices.EqualFunc(own, want, func(c Claim, key string) bool { return c.Key == key && c.Owner == "u1" }) {
		t.Errorf("claims: %v", own)
	}
	a, b := BalancerClaims(balanced("a", "k", "192.0.2.1", 80)), BalancerClaims(balanced("b", "k", "192.0.2.1", 81))
	if strings.TrimSuffix(a[0].Key, "80") != strings.TrimSuffix(b[0].Key, "81") {
		t.Errorf("of one key: %v and %v", a, b)
	}
	foreign := balanced("f", "", "192.0.2.1", 80)
	foreign.Spec.LoadBalancerClass = new(string)
	if got := BalancerClaims(foreign); got != nil {
		t.Errorf("of another class: %v", got)
	}

	// rival tells whether a stored key stands against a change.
	rival := func(key string, add, remove []Claim) bool {
		return slices.ContainsFunc(Rivals(add, remove), func(s Span) bool { return s.From <= key && key < s.To })
	}
	for _, tt := range []struct {
		key         string
		add, remove []Claim
		want        bool
	}{
		{"lb/192.0.2.1/u2/TCP/9", own, nil, true},
		{"lb/192.0.2.1/a/TCP/9", own, nil, true},
		{b[0].Key, own, nil, true},
		{own[1].Key, own[:1], nil, false},
		{"lb/192.0.2.10/u2/TCP/9", own, nil, false},
		{"lb/192.0.2.1", own, nil, false},
		{"lb/2001:db8::1/x/UDP/1", own, nil, true},
		{"lb/2001:db8::10/x/UDP/1", own, nil, false},
		{b[0].Key, a, nil, false},
		// The only Service of an address begins to share it.
		{"lb/192.0.2.1/a/TCP/80", a, []Claim{{Balancer, "lb/192.0.2.1/a/TCP/80", "a"}}, false},
		{"lb/192.0.2.1/a/TCP/81", a, []Claim{{Balancer, "lb/192.0.2.1/a/TCP/80", "a"}}, true},
		{"lb/192.0.2.1/z/TCP/80", a, []Claim{{Balancer, "lb/192.0.2.1/z/TCP/80", "z"}}, false},
		{"ip/10.96.0.1", []Claim{{Address, "ip/10.96.0.1", "x"}}, nil, false},
	} {
		if got := rival(tt.key, tt.add, tt.remove); got != tt.want {
			t.Errorf("%s against %v without %v: %v", tt.key, tt.add, tt.remove, got)
		}
	}
}
