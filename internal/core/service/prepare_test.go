package service

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

const (
	oneIP   = `policy=SingleStack families=[IPv4] ip=10.96.1.1 ips=[10.96.1.1]`
	extName = `type: ExternalName, externalName: example.org`
)

// API-05, API-08: changes of type. put is what the client sends as the whole spec;
// patched is the same change with everything else left as it was stored.
func TestTypeChange(t *testing.T) {
	setType := func(to corev1.ServiceType) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Spec.Type = to
			if to == corev1.ServiceTypeExternalName {
				svc.Spec.ExternalName = "example.org"
			}
		}
	}
	const local = `type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerClass: example.org/a`
	for _, tc := range []struct {
		name, old, put string
		patch          corev1.ServiceType
		want           string
	}{
		{"ClusterIP to NodePort", ``, `type: NodePort`, "NodePort", oneIP + ` external=Cluster`},
		{"ClusterIP to LoadBalancer", ``, `type: LoadBalancer`, "LoadBalancer", oneIP + ` external=Cluster allocate=true`},
		{"ClusterIP to ExternalName", ``, extName, "ExternalName", ``},
		{"NodePort to ClusterIP", `type: NodePort`, `type: ClusterIP`, "ClusterIP", oneIP},
		{"NodePort to LoadBalancer", `type: NodePort`, `type: LoadBalancer`, "LoadBalancer", oneIP + ` nodePort=31000 external=Cluster allocate=true`},
		{"NodePort to ExternalName", `type: NodePort`, extName, "ExternalName", ``},
		{"LoadBalancer to ClusterIP", local, `type: ClusterIP`, "ClusterIP", oneIP},
		{"LoadBalancer to NodePort", local, `type: NodePort, externalTrafficPolicy: Local`, "NodePort", oneIP + ` nodePort=31000 external=Local`},
		{"LoadBalancer to ExternalName", local, extName, "ExternalName", ``},
		{"ExternalName to ClusterIP", extName, `type: ClusterIP`, "", `policy=SingleStack families=[IPv4]`},
		{"ExternalName to NodePort", extName, `type: NodePort`, "", `policy=SingleStack families=[IPv4] external=Cluster`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := stored(t, dual, spec(t, tc.old))
			put := spec(t, tc.put)
			if tc.put == extName {
				put.Spec.Ports = old.DeepCopy().Spec.Ports
			}
			checkUpdate(t, put, old, tc.want)
			if tc.patch != "" {
				patched := old.DeepCopy()
				setType(tc.patch)(patched)
				SetDefaults(patched)
				checkUpdate(t, patched, old, tc.want)
			}
		})
	}
}

func checkUpdate(t *testing.T, svc, old *corev1.Service, want string) {
	t.Helper()
	before := old.DeepCopy()
	dual.PrepareForUpdate(svc, old)
	if errs := dual.ValidateUpdate(svc, old); len(errs) > 0 {
		t.Errorf("refused: %v", errs)
	}
	compare(t, shape(svc), want)
	if !equality.Semantic.DeepEqual(old, before) {
		t.Error("the stored Service was changed")
	}
}

// API-05: whoever changes a field of the old type together with the type gets an
// error; what only users write isn't cleared.
func TestTypeChangeRefused(t *testing.T) {
	for _, tc := range []struct{ name, old, in, want string }{
		{"a new node port", `type: NodePort`, `ports: [{port: 80, nodePort: 30999}]`, "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{"another address", ``, extName + `, clusterIP: 10.96.0.99`, "spec.clusterIPs: Forbidden: may not be set for ExternalName services"},
		{"another policy", ``, extName + `, ipFamilyPolicy: PreferDualStack`, "spec.ipFamilyPolicy: Forbidden: may not be set for ExternalName services"},
		{"other families", ``, extName + `, ipFamilies: [IPv6]`, "spec.ipFamilies: Forbidden: may not be set for ExternalName services"},
		{"another external policy", `type: NodePort`, `externalTrafficPolicy: Local`, `spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`},
		{"None for a NodePort", `clusterIP: None, selector: {a: b}`, `type: NodePort`, "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"},
		{"another health check port", `type: LoadBalancer, externalTrafficPolicy: Local`, `type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 32001`, "spec.healthCheckNodePort: Invalid value: 32001: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"},
		{"source ranges stay", `type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24]`, `type: NodePort, loadBalancerSourceRanges: [192.0.2.0/24]`, "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"API-06: the class", `type: LoadBalancer`, `type: LoadBalancer, loadBalancerClass: a`, "spec.loadBalancerClass: Invalid value: \"a\": may not change once set"},
		{"API-06: the health check port", `type: LoadBalancer, externalTrafficPolicy: Local`, `type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32001`, "spec.healthCheckNodePort: Forbidden: field is immutable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := stored(t, dual, spec(t, tc.old))
			svc := spec(t, tc.in)
			dual.PrepareForUpdate(svc, old)
			compare(t, lines(dual.ValidateUpdate(svc, old)), tc.want)
		})
	}
}

// API-06: clients that patch one of clusterIP and clusterIPs alone.
func TestClusterIPAlone(t *testing.T) {
	for _, tc := range []struct {
		name  string
		patch func(*corev1.ServiceSpec)
		want  string
	}{
		{"cleared", func(s *corev1.ServiceSpec) { s.ClusterIP = "" }, oneIP},
		{"both cleared", func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "", nil }, oneIP},
		{"the list cleared", func(s *corev1.ServiceSpec) { s.ClusterIPs = nil }, oneIP},
		{"families cleared", func(s *corev1.ServiceSpec) { s.IPFamilies, s.IPFamilyPolicy = nil, nil }, oneIP},
		{"changed", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.1.9" }, `spec.clusterIPs[0]: Invalid value: ["10.96.1.9"]: may not change once set`},
		{"the list changed", func(s *corev1.ServiceSpec) { s.ClusterIPs = []string{"10.96.1.9"} }, `spec.clusterIPs[0]: Invalid value: ["10.96.1.9"]: may not change once set
spec.clusterIPs: Invalid value: ["10.96.1.9"]: first value must match ` + "`clusterIP`"},
		{"cleared with the type", func(s *corev1.ServiceSpec) {
			s.ClusterIP, s.Type, s.ExternalName = "", corev1.ServiceTypeExternalName, "a"
		}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := stored(t, dual, spec(t, ``))
			svc := old.DeepCopy()
			tc.patch(&svc.Spec)
			dual.PrepareForUpdate(svc, old)
			got := shape(svc)
			if errs := dual.ValidateUpdate(svc, old); len(errs) > 0 {
				got = lines(errs)
			}
			compare(t, got, tc.want)
		})
	}
}

// API-08: node ports that the client leaves out stay with their ports.
func TestNodePortsCarriedOver(t *testing.T) {
	const two = `type: NodePort, ports: [{name: a, port: 80, nodePort: 30001}, {name: b, port: 81, nodePort: 30002}]`
	for _, tc := range []struct{ name, old, in, want string }{
		{"by name", two, `type: NodePort, ports: [{name: b, port: 81}, {name: a, port: 90}]`, "nodePort=30002 nodePort=30001"},
		{"by port, when it is renamed", `type: NodePort, ports: [{port: 80, nodePort: 30001}]`, `type: NodePort, ports: [{name: new, port: 81}, {name: http, port: 80}]`, "nodePort=30001"},
		{"one is given up", two, `type: NodePort, ports: [{name: b, port: 81}]`, "nodePort=30002"},
		{"one is moved by hand", two, `type: NodePort, ports: [{name: a, port: 80, nodePort: 30002}, {name: b, port: 81}]`, "nodePort=30002"},
		{"a chosen one", two, `type: NodePort, ports: [{name: a, port: 80, nodePort: 30009}, {name: b, port: 81}]`, "nodePort=30009 nodePort=30002"},
		{
			"TCP and UDP share",
			`type: NodePort, ports: [{name: t, port: 53, nodePort: 30053}, {name: u, port: 53, protocol: UDP, nodePort: 30053}]`,
			`type: NodePort, ports: [{name: t, port: 53}, {name: u, port: 53, protocol: UDP}]`, "nodePort=30053 nodePort=30053",
		},
		{
			"two UDP ports can't share",
			`type: NodePort, ports: [{name: t, port: 53, nodePort: 30053}, {name: u, port: 53, protocol: UDP, nodePort: 30053}]`,
			`type: NodePort, ports: [{name: t, port: 53, protocol: UDP}, {name: u, port: 54, protocol: UDP}]`, "nodePort=30053",
		},
		{
			"optional ones are given up by leaving them out",
			`type: LoadBalancer, ports: [{port: 80, nodePort: 30001}]`,
			`type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80}]`, "",
		},
		{
			"optional ones stay when they are listed",
			`type: LoadBalancer, ports: [{port: 80, nodePort: 30001}]`,
			`type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80, nodePort: 30001}]`, "nodePort=30001",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := stored(t, dual, spec(t, tc.old))
			svc := spec(t, tc.in)
			dual.PrepareForUpdate(svc, old)
			if errs := dual.ValidateUpdate(svc, old); len(errs) > 0 {
				t.Errorf("refused: %v", errs)
			}
			got := &corev1.Service{Spec: corev1.ServiceSpec{Ports: svc.Spec.Ports}}
			compare(t, shape(got), tc.want)
		})
	}
}

func TestStatus(t *testing.T) {
	const withStatus = `{spec: {type: LoadBalancer}, status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}}`
	created := parse(t, withStatus)
	dual.PrepareForCreate(created)
	if len(created.Status.LoadBalancer.Ingress) != 0 {
		t.Error("a create wrote the status")
	}
	old := stored(t, dual, spec(t, `type: LoadBalancer`))
	old.Status = parse(t, withStatus).Status

	updated := spec(t, `type: LoadBalancer`)
	dual.PrepareForUpdate(updated, old)
	if len(updated.Status.LoadBalancer.Ingress) != 1 {
		t.Error("an update of the spec changed the status")
	}
	typed := spec(t, `type: NodePort`)
	dual.PrepareForUpdate(typed, old)
	if len(typed.Status.LoadBalancer.Ingress) != 0 {
		t.Error("a NodePort Service keeps its load balancer's addresses")
	}
	status := spec(t, `type: NodePort`)
	PrepareForStatusUpdate(status, old)
	if !equality.Semantic.DeepEqual(status.Spec, old.Spec) {
		t.Error("an update of the status changed the spec")
	}
}

// A stored Service that passes through again is the same, whatever it is.
func TestPrepareIsIdempotent(t *testing.T) {
	for _, in := range []string{
		``, `clusterIP: None`, `clusterIP: None, selector: {a: b}`, `ipFamilyPolicy: PreferDualStack`,
		`type: NodePort, ipFamilyPolicy: RequireDualStack`, extName, `externalIPs: [192.0.2.1]`,
		`type: LoadBalancer, externalTrafficPolicy: Local, loadBalancerClass: x, ports: [{name: a, port: 1}, {name: b, port: 1, protocol: UDP}]`,
	} {
		for name, c := range clusters {
			if c.dualStack() || in != `type: NodePort, ipFamilyPolicy: RequireDualStack` {
				old := stored(t, c, spec(t, in))
				again := old.DeepCopy()
				SetDefaults(again)
				c.PrepareForUpdate(again, old)
				if errs := c.ValidateUpdate(again, old); len(errs) > 0 || !equality.Semantic.DeepEqual(again, old) {
					t.Errorf("%s in %s: %v, %s became %s", in, name, errs, shape(old), shape(again))
				}
			}
		}
	}
}
