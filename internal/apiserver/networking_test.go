package apiserver_test

import (
	"strings"
	"testing"
)

// Ingress, IngressClass and NetworkPolicy are kept and checked as upstream does, and a
// NetworkPolicy says that nobody enforces it.
func TestNetworkingKinds(t *testing.T) {
	t.Parallel()
	s := start(t)
	const (
		group    = "/apis/networking.k8s.io/v1/"
		policies = group + "namespaces/default/networkpolicies"
		ingress  = group + "namespaces/default/ingresses"
		classes  = group + "ingressclasses"
		warning  = "nothing enforces this NetworkPolicy yet: all traffic stays allowed"
	)
	for _, tc := range []struct {
		path, name, spec string
		code             int
		want             []string
	}{
		{policies, "deny", `{"podSelector":{}}`, 201, []string{warning, `"policyTypes":["Ingress"]`}},
		{policies, "both", `{"podSelector":{"matchLabels":{"a":"b"}},"egress":[{"ports":[{"port":53,"protocol":"UDP"}],"to":[{"ipBlock":{"cidr":"192.0.2.0/24","except":["192.0.2.128/25"]}}]}],"ingress":[{"ports":[{"port":1,"endPort":9}],"from":[{"podSelector":{},"namespaceSelector":{}}]}]}`, 201, []string{`"policyTypes":["Ingress","Egress"]`, `"protocol":"TCP","port":1,"endPort":9`}},
		{policies, "bad", `{"podSelector":{"matchLabels":{"a b":"c"}},"policyTypes":["In"],"ingress":[{"from":[{},{"podSelector":{},"ipBlock":{"cidr":"x"}},{"ipBlock":{"cidr":"192.0.2.0/24","except":["198.51.100.0/25"]}}],"ports":[{"protocol":"ICMP"},{"endPort":7},{"port":9,"endPort":7},{"port":"web","endPort":7},{"port":70000}]}]}`, 422, []string{
			"spec.podSelector.matchLabels: Invalid value", "spec.policyTypes[0]: Unsupported value: \"In\"", "spec.ingress[0].from[0]: Required value: must specify a peer",
			"spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer", "spec.ingress[0].from[1].ipBlock.cidr: Invalid value: \"x\"",
			"spec.ingress[0].from[2].ipBlock.except[0]: Invalid value: \"198.51.100.0/25\": must be a strict subset of `cidr`", "spec.ingress[0].ports[0].protocol: Unsupported value",
			"spec.ingress[0].ports[1].endPort: Invalid value: 7: may not be specified when `port` is not specified", "must be greater than or equal to `port`", "may not be specified when `port` is non-numeric", "spec.ingress[0].ports[4].port: Invalid value: 70000",
		}},
		{ingress, "web", `{"ingressClassName":"a","tls":[{"hosts":["*.example.org"],"secretName":"s"}],"rules":[{"host":"example.org","http":{"paths":[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"web","port":{"number":80}}}}]}}]}`, 201, nil},
		{ingress, "default", `{"defaultBackend":{"resource":{"kind":"Bucket","name":"b","apiGroup":"example.org"}}}`, 201, nil},
		{ingress, "bad", `{"tls":[{"hosts":["*a"],"secretName":"S"}],"ingressClassName":"A","rules":[{"host":"192.0.2.1","http":{"paths":[{"backend":{}},{"path":"a//b/..","pathType":"Exact","backend":{}},{"path":"x","pathType":"ImplementationSpecific","backend":{"service":{"name":"w","port":{}}}},{"pathType":"Near","path":"/","backend":{"resource":{"kind":"","name":"a/b"},"service":{"name":"w","port":{}}}}]}},{"http":{}}]}`, 422, []string{
			"spec.tls[0].hosts[0]: Invalid value", "spec.tls[0].secretName: Invalid value", "spec.ingressClassName: Invalid value", "spec.rules[0].host: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
			"spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified", "must be an absolute path", "must not contain '//'", "cannot end with '/..'",
			"spec.rules[0].http.paths[2].backend: Required value: port name or number is required", "spec.rules[0].http.paths[3].pathType: Unsupported value: \"Near\"", "cannot set both resource and service backends", "spec.rules[1].http.paths: Required value",
		}},
		{ingress, "empty", `{}`, 422, []string{"spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"}},
		{classes, "a", `{"controller":"example.org/nginx","parameters":{"kind":"K","name":"n"}}`, 201, []string{`"scope":"Cluster"`}},
		{classes, "bad", `{"controller":"nginx","parameters":{"kind":"","name":"n","scope":"Namespace"}}`, 422, []string{"spec.controller: Invalid value: \"nginx\"", "spec.parameters.kind: Required value", "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"}},
	} {
		ask(t, s, "POST", tc.path, `{"metadata":{"name":"`+tc.name+`"},"spec":`+tc.spec+`}`).want(t, tc.code, tc.want...)
	}
	askAs(t, s, "PATCH", classes+"/a", mergePatch, `{"spec":{"controller":"example.org/other"}}`).want(t, 422, "spec.controller", "field is immutable")
	askAs(t, s, "PATCH", policies+"/deny", mergePatch, `{"spec":{"podSelector":{"matchLabels":{"x":"y"}}}}`).want(t, 200, warning, `"generation":2`)
	askAs(t, s, "PATCH", ingress+"/web/status", mergePatch, `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`).want(t, 200, `"ip":"192.0.2.1"`)
	askAs(t, s, "PATCH", ingress+"/web/status", mergePatch, `{"status":{"loadBalancer":{"ingress":[{"ip":"x","hostname":"192.0.2.1"}]}}}`).
		want(t, 422, "status.loadBalancer.ingress[0].ip", "must be a DNS name, not an IP address")
	ask(t, s, "POST", ingress, `{"metadata":{"name":"two","annotations":{"kubernetes.io/ingress.class":"b"}},"spec":{"ingressClassName":"a","defaultBackend":{"service":{"name":"w","port":{"name":"http"}}}}}`).
		want(t, 422, "must match `ingressClassName` when both are specified")
	for _, tc := range []struct{ path, want string }{
		{ingress + "/web", "Name Class Hosts Address Ports Age\nweb a example.org 192.0.2.1 80, 443 AGE"},
		{ingress + "/default", "Name Class Hosts Address Ports Age\ndefault <none> *  80 AGE"},
		{classes + "/a", "Name Controller Parameters Age\na example.org/nginx K/n AGE"},
		{policies + "/deny", "Name Pod-Selector Age\ndeny x=y AGE"},
	} {
		if got := table(t, httpClient(t, s), "https://"+strings.TrimPrefix(s.Config.Host, "https://")+tc.path); got != tc.want {
			t.Errorf("%s:\ngot  %q\nwant %q", tc.path, got, tc.want)
		}
	}
}
