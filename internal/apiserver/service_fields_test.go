package apiserver_test

import (
	"strings"
	"testing"
)

const mergePatch = "application/merge-patch+json"

// API-02, API-04, API-05: fields whose meaning hangs on the type, through the server.
func TestServiceFields(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, tc := range []struct {
		name, spec string
		code       int
		want       []string
	}{
		{
			"defaults", `{"ports":[{"port":80}]}`, 201,
			[]string{`"type":"ClusterIP"`, `"protocol":"TCP","port":80,"targetPort":80`, `"sessionAffinity":"None"`, `"internalTrafficPolicy":"Cluster"`, `"ipFamilyPolicy":"SingleStack"`},
		},
		{
			"every field of a port", `{"ports":[{"name":"a","port":80,"protocol":"SCTP","appProtocol":"example.org/x","targetPort":"web"}]}`, 201,
			[]string{`{"name":"a","protocol":"SCTP","appProtocol":"example.org/x","port":80,"targetPort":"web"}`},
		},
		{"affinity", `{"sessionAffinity":"ClientIP","ports":[{"port":80}]}`, 201, []string{`"timeoutSeconds":10800`}},
		{"the longest affinity", `{"sessionAffinity":"ClientIP","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":86400}},"ports":[{"port":80}]}`, 201, []string{`"timeoutSeconds":86400`}},
		{"a load balancer", `{"type":"LoadBalancer","ports":[{"port":80}]}`, 201, []string{`"allocateLoadBalancerNodePorts":true`, `"nodePort":3`, `"externalTrafficPolicy":"Cluster"`}},
		{"publishNotReadyAddresses", `{"publishNotReadyAddresses":true,"ports":[{"port":80}]}`, 201, []string{`"publishNotReadyAddresses":true`}},
		{"same node", `{"trafficDistribution":"PreferSameNode","ports":[{"port":80}]}`, 201, []string{`"trafficDistribution":"PreferSameNode"`}},
		{"same zone", `{"trafficDistribution":"PreferSameZone","ports":[{"port":80}]}`, 201, []string{`"trafficDistribution":"PreferSameZone"`}},
		{"its older name", `{"trafficDistribution":"PreferClose","ports":[{"port":80}]}`, 201, []string{`spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"`}},
		{"another distribution", `{"trafficDistribution":"Near","ports":[{"port":80}]}`, 422, []string{`spec.trafficDistribution: Unsupported value: "Near"`}},
		{"source ranges", `{"type":"LoadBalancer","loadBalancerSourceRanges":["192.0.2.0/24"," 2001:db8::/32"],"ports":[{"port":80}]}`, 201, []string{`"loadBalancerSourceRanges":["192.0.2.0/24"`}},
		{"bad source ranges", `{"type":"LoadBalancer","loadBalancerSourceRanges":["192.0.2.0"],"ports":[{"port":80}]}`, 422, []string{"spec.LoadBalancerSourceRanges[0]", "must be a valid CIDR value"}},
		{"source ranges elsewhere", `{"loadBalancerSourceRanges":["192.0.2.0/24"],"ports":[{"port":80}]}`, 422, []string{"may only be used when `type` is 'LoadBalancer'"}},
		{"external IPs", `{"externalIPs":["192.0.2.1"],"ports":[{"port":80}]}`, 201, []string{"spec.externalIPs is deprecated", `"externalTrafficPolicy":"Cluster"`}},
		{"external IPs, headless", `{"clusterIP":"None","externalIPs":["192.0.2.1"]}`, 201, []string{"spec.externalIPs is ignored for headless services"}},
		{"external IPs, ExternalName", `{"type":"ExternalName","externalName":"a.example.org","externalIPs":["192.0.2.1"]}`, 201, []string{`spec.externalIPs is ignored when spec.type is "ExternalName"`}},
		{"a health check port elsewhere", `{"type":"NodePort","externalTrafficPolicy":"Local","healthCheckNodePort":30500,"ports":[{"port":80}]}`, 422, []string{"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"}},
		{"a health check port out of range", `{"type":"LoadBalancer","externalTrafficPolicy":"Local","healthCheckNodePort":80,"ports":[{"port":80}]}`, 422, []string{"spec.healthCheckNodePort: Invalid value: 80: provided port is not in the valid range"}},
		{"a node port out of range", `{"type":"NodePort","ports":[{"port":80,"nodePort":80}]}`, 422, []string{"spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ask(t, s, "POST", servicesPath, `{"metadata":{"generateName":"web-"},"spec":`+tc.spec+`}`).want(t, tc.code, tc.want...)
		})
	}
}

// API-02: a load balancer's node ports, its health check node port and its class,
// through its life.
func TestLoadBalancerPorts(t *testing.T) {
	t.Parallel()
	s := start(t)
	at := servicesPath + "/lb"
	patch := func(body string) answer { return askAs(t, s, "PATCH", at, mergePatch, body) }
	got := serviceOf(t, ask(t, s, "POST", servicesPath, `{"metadata":{"name":"lb"},"spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"externalTrafficPolicy":"Local","healthCheckNodePort":30700,"ports":[{"port":80}]}}`).want(t, 201))
	if got.Spec.Ports[0].NodePort != 0 || got.Spec.HealthCheckNodePort != 30700 {
		t.Errorf("without node ports: %+v", got.Spec)
	}
	checkClaims(t, s, got)
	// Another Service can have neither that port nor a second one of its own.
	ask(t, s, "POST", servicesPath, `{"metadata":{"name":"np"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30700}]}}`).want(t, 422, "spec.ports[0].nodePort: Invalid value: 30700: provided port is already allocated")
	patch(`{"spec":{"healthCheckNodePort":30701}}`).want(t, 422, "spec.healthCheckNodePort", "field is immutable")
	patch(`{"spec":{"loadBalancerClass":"example.org/late"}}`).want(t, 422, "spec.loadBalancerClass", "may not change once set")

	got = serviceOf(t, patch(`{"spec":{"externalTrafficPolicy":"Cluster"}}`).want(t, 200))
	if got.Spec.HealthCheckNodePort != 0 {
		t.Errorf("policy Cluster keeps the health check port %d", got.Spec.HealthCheckNodePort)
	}
	checkClaims(t, s, got)
	got = serviceOf(t, patch(`{"spec":{"allocateLoadBalancerNodePorts":true,"externalTrafficPolicy":"Local"}}`).want(t, 200))
	if got.Spec.Ports[0].NodePort == 0 || got.Spec.HealthCheckNodePort == 0 {
		t.Errorf("with node ports: %+v", got.Spec)
	}
	checkClaims(t, s, got)
	kept := serviceOf(t, patch(`{"spec":{"allocateLoadBalancerNodePorts":false}}`).want(t, 200))
	if kept.Spec.Ports[0].NodePort != got.Spec.Ports[0].NodePort {
		t.Errorf("the node port %d became %d, though nobody gave it up", got.Spec.Ports[0].NodePort, kept.Spec.Ports[0].NodePort)
	}
	got = serviceOf(t, patch(`{"spec":{"ports":[{"port":80}]}}`).want(t, 200))
	if got.Spec.Ports[0].NodePort != 0 {
		t.Errorf("a node port that was given up is %d", got.Spec.Ports[0].NodePort)
	}
	checkClaims(t, s, got)
}

// API-02: the status changes nothing of the spec, the spec nothing of the status.
func TestServiceStatus(t *testing.T) {
	t.Parallel()
	s := start(t)
	at := servicesPath + "/lb"
	ask(t, s, "POST", servicesPath, `{"metadata":{"name":"lb"},"spec":{"type":"LoadBalancer","ports":[{"port":80}]},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.9"}]}}}`).
		want(t, 201, `"status":{"loadBalancer":{}}`)
	status := func(body string) answer { return askAs(t, s, "PATCH", at+"/status", mergePatch, body) }
	status(`{"spec":{"sessionAffinity":"ClientIP","ports":[{"port":81}]},"status":{
		"conditions":[{"type":"example.org/Ready","status":"True","reason":"Here","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}],
		"loadBalancer":{"ingress":[{"ip":"192.0.2.1"},{"ip":"2001:db8::1","ipMode":"Proxy","ports":[{"port":80,"protocol":"TCP"}]},{"hostname":"lb.example.org"}]}}}`).
		want(t, 200, `"sessionAffinity":"None"`, `"port":80`, `{"ip":"192.0.2.1","ipMode":"VIP"}`,
			`{"ip":"2001:db8::1","ipMode":"Proxy","ports":[{"port":80,"protocol":"TCP"}]}`, `{"hostname":"lb.example.org"}`, `"type":"example.org/Ready","status":"True"`)
	for body, want := range map[string]string{
		`[{"ip":"192.0.2.1","ipMode":"Magic"}]`:     `status.loadBalancer.ingress[0].ipMode: Unsupported value: "Magic": supported values: "Proxy", "VIP"`,
		`[{"hostname":"a","ipMode":"VIP"}]`:         "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
		`[{"hostname":"192.0.2.1"}]`:                "status.loadBalancer.ingress[0].hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
		`[{"ip":"192.0.2.01"},{"hostname":"A.b_"}]`: "status.loadBalancer.ingress[0].ip: Invalid value: \"192.0.2.01\": must not have leading 0s",
	} {
		status(`{"status":{"loadBalancer":{"ingress":`+body+`}}}`).want(t, 422, want)
	}
	got := askAs(t, s, "PATCH", at, mergePatch, `{"spec":{"sessionAffinity":"ClientIP"},"status":{"conditions":null,"loadBalancer":null}}`).
		want(t, 200, `"ip":"192.0.2.1"`, "example.org/Ready")
	for _, w := range got.warnings {
		if strings.Contains(w, "sessionAffinity") {
			t.Errorf("a Warning for affinity, which works: %s", w)
		}
	}
	// Without the type there is no such status; conditions are others' and stay.
	got = askAs(t, s, "PATCH", at, mergePatch, `{"spec":{"type":"ClusterIP"}}`).want(t, 200, "example.org/Ready", `"loadBalancer":{}`)
	status(`{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`).want(t, 422, "status.loadBalancer.ingress", "may only be used when `spec.type` is 'LoadBalancer'")
	if g := got.field(t, "metadata.generation"); g != 3.0 {
		t.Errorf("generation %v after two changes of the spec", g)
	}
}
