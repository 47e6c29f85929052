package service

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

var (
	dual     = Cluster{Families: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}}
	dual6    = Cluster{Families: []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}}
	single   = Cluster{Families: []corev1.IPFamily{corev1.IPv4Protocol}}
	clusters = map[string]Cluster{"dual": dual, "dual6": dual6, "single": single}
)

// parse reads a Service as a user writes it. What lacks metadata is default/web, and
// what lacks ports has one, unless it says `ports: []`.
func parse(t *testing.T, text string) *corev1.Service {
	t.Helper()
	svc := &corev1.Service{}
	svc.Name, svc.Namespace, svc.ResourceVersion = "web", "default", "1"
	if err := yaml.UnmarshalStrict([]byte(text), svc); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	if svc.Spec.Ports == nil && svc.Spec.Type != corev1.ServiceTypeExternalName {
		svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	}
	SetDefaults(svc)
	return svc
}

// spec makes a Service of one line of YAML in flow style.
func spec(t *testing.T, line string) *corev1.Service {
	t.Helper()
	return parse(t, "spec: {"+line+"}")
}

// assign stands for ipam: it fills in what a stored Service can't lack.
func assign(svc *corev1.Service) {
	pick := map[corev1.IPFamily]string{corev1.IPv4Protocol: "10.96.1.1", corev1.IPv6Protocol: "fd00:10:96::101"}
	if TakesClusterIPs(svc) && !IsHeadless(svc) {
		for i := len(svc.Spec.ClusterIPs); i < len(svc.Spec.IPFamilies); i++ {
			svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, pick[svc.Spec.IPFamilies[i]])
		}
		svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	}
	for i := range svc.Spec.Ports {
		if NeedsNodePorts(svc) && svc.Spec.Ports[i].NodePort == 0 {
			svc.Spec.Ports[i].NodePort = 31000 + int32(i)
		}
	}
	if NeedsHealthCheckNodePort(svc) && svc.Spec.HealthCheckNodePort == 0 {
		svc.Spec.HealthCheckNodePort = 32000
	}
}

// stored gives the Service as it is after a create that succeeded.
func stored(t *testing.T, c Cluster, svc *corev1.Service) *corev1.Service {
	t.Helper()
	c.PrepareForCreate(svc)
	if errs := c.Validate(svc); len(errs) > 0 {
		t.Fatalf("the stored Service is not valid: %v", errs)
	}
	assign(svc)
	return svc
}

// shape prints the fields whose meaning hangs on one another.
func shape(svc *corev1.Service) string {
	var out []string
	add := func(name string, value any, set bool) {
		if set {
			out = append(out, fmt.Sprintf("%s=%v", name, value))
		}
	}
	s := &svc.Spec
	add("policy", policy(svc), s.IPFamilyPolicy != nil)
	add("families", s.IPFamilies, len(s.IPFamilies) > 0)
	add("ip", s.ClusterIP, s.ClusterIP != "")
	add("ips", s.ClusterIPs, len(s.ClusterIPs) > 0)
	for _, p := range s.Ports {
		add("nodePort", p.NodePort, p.NodePort != 0)
	}
	add("health", s.HealthCheckNodePort, s.HealthCheckNodePort != 0)
	add("external", s.ExternalTrafficPolicy, s.ExternalTrafficPolicy != "")
	add("allocate", deref(s.AllocateLoadBalancerNodePorts), s.AllocateLoadBalancerNodePorts != nil)
	add("class", deref(s.LoadBalancerClass), s.LoadBalancerClass != nil)
	return strings.Join(out, " ")
}

func lines(errs field.ErrorList) string {
	var out []string
	for _, err := range errs {
		out = append(out, err.Error())
	}
	return strings.Join(out, "\n")
}

func compare(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n  %s\nwant\n  %s", strings.ReplaceAll(got, "\n", "\n  "), strings.ReplaceAll(want, "\n", "\n  "))
	}
}

// parseSpec reads a spec without giving it defaults.
func parseSpec(t *testing.T, text string) corev1.ServiceSpec {
	t.Helper()
	var s corev1.ServiceSpec
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(text, "\t", " ")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}
