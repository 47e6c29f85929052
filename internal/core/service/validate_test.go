package service

import (
	"strings"
	"testing"
)

// API-05: each rule by itself, with the path and the message that clients of
// Kubernetes know.
func TestValidate(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"a good one", `spec: {selector: {app: web}}`, ``},
		{"a name that begins with a digit", `metadata: {name: 9lives}`, ``},
		{"a name with a dot", `metadata: {name: a.b}`, `metadata.name: Invalid value: "a.b": must not contain dots`},
		{"no ports", `spec: {ports: []}`, `spec.ports: Required value`},
		{"no ports, headless", `spec: {ports: [], clusterIP: None}`, ``},
		{"no ports, ExternalName", `spec: {ports: [], type: ExternalName, externalName: a.example.org.}`, ``},
		{"unknown type", `spec: {type: Foo}`, `spec.type: Unsupported value: "Foo": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`},

		{"two ports need names", `spec: {ports: [{port: 80}, {port: 81, name: b}]}`, `spec.ports[0].name: Required value`},
		{"a name twice", `spec: {ports: [{port: 80, name: b}, {port: 81, name: b}]}`, `spec.ports[1].name: Duplicate value: "b"`},
		{"a bad name", `spec: {ports: [{port: 80, name: B}]}`, `spec.ports[0].name: Invalid value: "B": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`},
		{"a port twice", `spec: {ports: [{port: 80, name: a}, {port: 80, name: b}]}`, `spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80,"targetPort":0}`},
		{"TCP and UDP", `spec: {ports: [{port: 80, name: a}, {port: 80, name: b, protocol: UDP}]}`, ``},
		{"port 0", `spec: {ports: [{port: 0, targetPort: 1}]}`, `spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive`},
		{"port 65536", `spec: {ports: [{port: 65536, targetPort: x}]}`, `spec.ports[0].port: Invalid value: 65536: must be between 1 and 65535, inclusive`},
		{"target port 65536", `spec: {ports: [{port: 1, targetPort: 65536}]}`, `spec.ports[0].targetPort: Invalid value: 65536: must be between 1 and 65535, inclusive`},
		{"target port name", `spec: {ports: [{port: 1, targetPort: a_b}]}`, `spec.ports[0].targetPort: Invalid value: "a_b": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`},
		{"protocol", `spec: {ports: [{port: 1, protocol: ICMP}]}`, `spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`},
		{"app protocol", `spec: {ports: [{port: 1, appProtocol: kubernetes.io/h2c}]}`, ``},
		{"bad app protocol", `spec: {ports: [{port: 1, appProtocol: "a b"}]}`, `spec.ports[0].appProtocol: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`},

		{"nodePort for ClusterIP", `spec: {ports: [{port: 1, nodePort: 30000}]}`, "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"},
		{"nodePort on ExternalName", `spec: {type: ExternalName, externalName: a, ports: [{port: 1, nodePort: 30000}]}`, ``},
		{"a node port twice", `spec: {type: NodePort, ports: [{name: a, port: 1, nodePort: 30000}, {name: b, port: 2, nodePort: 30000}]}`, `spec.ports[1].nodePort: Duplicate value: 30000`},
		{"a node port for TCP and UDP", `spec: {type: NodePort, ports: [{name: a, port: 1, nodePort: 30000}, {name: b, port: 2, protocol: UDP, nodePort: 30000}]}`, ``},
		{"None for NodePort", `spec: {type: NodePort, clusterIP: None}`, `spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services`},
		{"None for LoadBalancer", `spec: {type: LoadBalancer, clusterIP: None}`, `spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for LoadBalancer services`},

		{"ExternalName lacks its name", `spec: {type: ExternalName}`, `spec.externalName: Required value`},
		{"ExternalName in capitals", `spec: {type: ExternalName, externalName: Example.org}`, `spec.externalName: Invalid value: "Example.org": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{"ExternalName with an address", `spec: {type: ExternalName, externalName: a, clusterIP: 10.96.0.1}`, `spec.clusterIPs: Forbidden: may not be set for ExternalName services`},

		{"selector", `spec: {selector: {"a b": c, d: "e f"}}`, `spec.selector: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
spec.selector: Invalid value: "e f": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')`},
		{"affinity", `spec: {sessionAffinity: Cookie}`, `spec.sessionAffinity: Unsupported value: "Cookie": supported values: "ClientIP", "None"`},
		{"affinity for a day", `spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86400}}}`, ``},
		{"affinity for longer", `spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}}`, `spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400`},
		{"affinity for no time", `spec: {sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}`, `spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400`},

		{"external IPs", `spec: {externalIPs: [192.0.2.1, "2001:db8::1"]}`, ``},
		{"external IPs of the node itself", `spec: {externalIPs: [0.0.0.0, 127.0.0.1, "::1", 169.254.169.254, "fe80::1", 224.0.0.1, x]}`, `spec.externalIPs[0]: Invalid value: "0.0.0.0": may not be unspecified (0.0.0.0)
spec.externalIPs[1]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)
spec.externalIPs[2]: Invalid value: "::1": may not be in the loopback range (127.0.0.0/8, ::1/128)
spec.externalIPs[3]: Invalid value: "169.254.169.254": may not be in the link-local range (169.254.0.0/16, fe80::/10)
spec.externalIPs[4]: Invalid value: "fe80::1": may not be in the link-local range (169.254.0.0/16, fe80::/10)
spec.externalIPs[5]: Invalid value: "224.0.0.1": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)
spec.externalIPs[6]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},

		{"source ranges", `spec: {type: LoadBalancer, loadBalancerSourceRanges: [" 192.0.2.0/24", "2001:db8::/32"]}`, ``},
		{"bad source ranges", `spec: {type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.1/24, here]}`, `spec.LoadBalancerSourceRanges[0]: Invalid value: "192.0.2.1/24": must not have bits set beyond the prefix length
spec.LoadBalancerSourceRanges[1]: Invalid value: "here": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`},
		{"source ranges elsewhere", `spec: {loadBalancerSourceRanges: [192.0.2.0/24]}`, "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"source ranges as annotation", `{metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: "192.0.2.0/24,x"}}, spec: {type: LoadBalancer}}`, `metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: Invalid value: "x": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)`},
		{"class", `spec: {type: LoadBalancer, loadBalancerClass: example.org/inside}`, ``},
		{"bad class", `spec: {type: LoadBalancer, loadBalancerClass: a/b/c}`, `spec.loadBalancerClass: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters`},
		{"class elsewhere", `spec: {loadBalancerClass: a}`, "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"allocate elsewhere", `spec: {type: NodePort, allocateLoadBalancerNodePorts: false}`, "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'"},

		{"external policy inside", `spec: {externalTrafficPolicy: Local}`, `spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`},
		{"external policy with external IPs", `spec: {externalTrafficPolicy: Local, externalIPs: [192.0.2.1]}`, ``},
		{"external policy", `spec: {type: NodePort, externalTrafficPolicy: Near}`, `spec.externalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"`},
		{"internal policy", `spec: {internalTrafficPolicy: Near}`, `spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"`},
		{"distribution", `spec: {trafficDistribution: PreferSameNode}`, ``},
		{"bad distribution", `spec: {trafficDistribution: Near}`, `spec.trafficDistribution: Unsupported value: "Near": supported values: "PreferClose", "PreferSameNode", "PreferSameZone"`},
		{"health check port, not assigned yet", `spec: {type: LoadBalancer, externalTrafficPolicy: Local}`, ``},
		{"health check port for NodePort", `spec: {type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 30001}`, "spec.healthCheckNodePort: Invalid value: 30001: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"},
		{"health check port that is a node port", `spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30001, ports: [{port: 1, nodePort: 30001}]}`, `spec.healthCheckNodePort: Invalid value: 30001: provided port is already allocated`},
		{"health check port", `spec: {type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 70000}`, `spec.healthCheckNodePort: Invalid value: 70000: must be between 1 and 65535, inclusive`},

		{"topology annotations that differ", `metadata: {annotations: {service.kubernetes.io/topology-aware-hints: auto, service.kubernetes.io/topology-mode: disabled}}`, `metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: "disabled": must match annotations[service.kubernetes.io/topology-aware-hints] when both are specified`},
		{"API-03: topology keys", `metadata: {annotations: {portico.dev/topology-keys: "kubernetes.io/hostname,*"}}`, ``},
		{"API-03: * is last", `metadata: {annotations: {portico.dev/topology-keys: "*,kubernetes.io/hostname"}}`, `metadata.annotations[portico.dev/topology-keys][0]: Invalid value: "*": "*" must be the last value specified`},
		{"API-03: no key twice or empty", `metadata: {annotations: {portico.dev/topology-keys: "a,a,,"}}`, `metadata.annotations[portico.dev/topology-keys][1]: Duplicate value: "a"
metadata.annotations[portico.dev/topology-keys][2]: Required value
metadata.annotations[portico.dev/topology-keys][3]: Required value`},
		{"API-03: 17 keys", `metadata: {annotations: {portico.dev/topology-keys: "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"}}`, `metadata.annotations[portico.dev/topology-keys]: Too many: 17: must have at most 16 items`},
		{"API-03: not with Local", `{metadata: {annotations: {portico.dev/topology-keys: "a"}}, spec: {type: NodePort, externalTrafficPolicy: Local}}`, "metadata.annotations[portico.dev/topology-keys]: Forbidden: may not be specified when `externalTrafficPolicy=Local`"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := parse(t, tc.in)
			svc.ResourceVersion = ""
			dual.PrepareForCreate(svc)
			got := lines(dual.Validate(svc))
			if strings.HasSuffix(tc.want, "alphanumeric characters") { // the rest is apimachinery's
				got = got[:min(len(got), len(tc.want))]
			}
			compare(t, got, tc.want)
		})
	}
}

// API-05: everything at once; Kubernetes would stop at the family fields.
func TestValidateReportsEverything(t *testing.T) {
	svc := parse(t, `{metadata: {name: Bad_Name, labels: {"a b": c}}, spec: {type: NodePort, clusterIP: None, ipFamilies: [IPv5], ipFamilyPolicy: Foo,
		selector: {a: "b c"}, sessionAffinity: Foo, externalIPs: [x], loadBalancerClass: a, internalTrafficPolicy: Foo,
		ports: [{port: 0}, {port: 80, protocol: FOO, targetPort: 70000}]}}`)
	dual.PrepareForCreate(svc)
	var got []string
	for _, err := range dual.Validate(svc) {
		got = append(got, err.Field)
	}
	compare(t, strings.Join(got, " "), "metadata.name metadata.labels spec.clusterIPs[0] spec.ports[0].name spec.ports[0].port spec.ports[0].targetPort "+
		"spec.ports[1].name spec.ports[1].protocol spec.ports[1].targetPort spec.selector spec.sessionAffinity "+
		"spec.ipFamilies[0] spec.ipFamilyPolicy spec.externalIPs[0] spec.loadBalancerClass spec.internalTrafficPolicy")
}

// KEP-4858: what was stored before the rules became strict can still be updated.
func TestOldAddressesStayValid(t *testing.T) {
	old := stored(t, dual, spec(t, `type: LoadBalancer, externalIPs: [192.0.2.1], loadBalancerSourceRanges: [192.0.2.0/24]`))
	old.Spec.ClusterIP, old.Spec.ClusterIPs = "10.096.1.1", []string{"10.096.1.1"}
	old.Spec.ExternalIPs = []string{"192.000.2.1"}
	old.Spec.LoadBalancerSourceRanges = []string{"192.0.2.7/24 "}
	svc := old.DeepCopy()
	dual.PrepareForUpdate(svc, old)
	if errs := dual.ValidateUpdate(svc, old); len(errs) > 0 {
		t.Error(errs)
	}
	svc.Spec.ExternalIPs = append(svc.Spec.ExternalIPs, "192.000.2.2")
	compare(t, lines(dual.ValidateUpdate(svc, old)), `spec.externalIPs[1]: Invalid value: "192.000.2.2": must not have leading 0s`)
}

func TestValidateStatusUpdate(t *testing.T) {
	for _, tc := range []struct{ name, kind, ingress, want string }{
		{"addresses and names", "LoadBalancer", `[{ip: 192.0.2.1, ipMode: Proxy}, {ip: "2001:db8::1"}, {hostname: lb.example.org}]`, ``},
		{"another type", "NodePort", `[{ip: 192.0.2.1}]`, "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"},
		{"no address", "LoadBalancer", `[{ip: here}]`, `status.loadBalancer.ingress[0].ip: Invalid value: "here": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`},
		{"mode", "LoadBalancer", `[{ip: 192.0.2.1, ipMode: Foo}]`, `status.loadBalancer.ingress[0].ipMode: Unsupported value: "Foo": supported values: "Proxy", "VIP"`},
		{"mode without address", "LoadBalancer", `[{hostname: a, ipMode: VIP}]`, "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set"},
		{"an address as name", "LoadBalancer", `[{hostname: 192.0.2.1}]`, `status.loadBalancer.ingress[0].hostname: Invalid value: "192.0.2.1": must be a DNS name, not an IP address`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := parse(t, `{spec: {type: `+tc.kind+`}, status: {loadBalancer: {ingress: `+tc.ingress+`}}}`)
			compare(t, lines(ValidateStatusUpdate(svc, spec(t, `type: `+tc.kind))), tc.want)
		})
	}
}

// DP-06, API-05.
func TestWarnings(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{`spec: {}`, ``},
		{`spec: {externalIPs: [192.0.2.1]}`, `spec.externalIPs is deprecated and may no longer be implemented in some clusters`},
		{`spec: {externalIPs: [192.0.2.1], clusterIP: None, loadBalancerIP: 192.0.2.1, sessionAffinity: ClientIP}`, `spec.loadBalancerIP is ignored for headless services
spec.externalIPs is ignored for headless services
spec.SessionAffinity is ignored for headless services`},
		{`spec: {externalIPs: [192.0.2.1], type: ExternalName, externalName: a}`, `spec.externalIPs is ignored when spec.type is "ExternalName"`},
		{`spec: {externalName: a}`, `spec.externalName is ignored when spec.type is not "ExternalName"`},
		{`spec: {trafficDistribution: PreferClose}`, `spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`},
		{`spec: {clusterIP: "FD00:10:96:0::5"}`, `spec.clusterIPs[0]: IPv6 address "FD00:10:96:0::5" should be in RFC 5952 canonical format ("fd00:10:96::5")`},
		{`spec: {type: LoadBalancer, loadBalancerIP: not-one, loadBalancerSourceRanges: ["2001:DB8::/32 ", x]}`, `spec.loadBalancerSourceRanges[0]: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952 canonical format ("2001:db8::/32")`},
		{`spec: {sessionAffinity: ClientIP}`, ``},
		{`metadata: {annotations: {service.kubernetes.io/topology-aware-hints: auto}}`, `annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead`},
	} {
		svc := parse(t, tc.in)
		dual.PrepareForCreate(svc)
		compare(t, strings.Join(Warnings(svc), "\n"), tc.want)
	}
}
