package apiserver_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/ipam"
)

const servicesPath = "/api/v1/namespaces/default/services"

// serviceShape is one kind of Service, as a manifest and as a change of another one.
type serviceShape struct {
	name, spec, change          string
	headless, external          bool
	nodePorts, loadBalancer     bool
	classAndHealthCheckNodePort bool
}

// shapes are what a Service can turn from and to.
var shapes = []serviceShape{
	{name: "ClusterIP", spec: `{"selector":{"a":"b"},"ports":[{"port":80}]}`, change: `{"type":"ClusterIP"}`},
	{name: "selectorless", spec: `{"ports":[{"port":80}]}`, change: `{"type":"ClusterIP","selector":null}`},
	{name: "dual-stack", spec: `{"ipFamilyPolicy":"RequireDualStack","selector":{"a":"b"},"ports":[{"port":80}]}`, change: `{"type":"ClusterIP","ipFamilyPolicy":"RequireDualStack"}`},
	{name: "NodePort", spec: `{"type":"NodePort","selector":{"a":"b"},"ports":[{"port":80}]}`, change: `{"type":"NodePort"}`, nodePorts: true},
	{
		name: "LoadBalancer", nodePorts: true, loadBalancer: true, classAndHealthCheckNodePort: true,
		spec:   `{"type":"LoadBalancer","externalTrafficPolicy":"Local","loadBalancerClass":"example.org/a","ports":[{"port":80}]}`,
		change: `{"type":"LoadBalancer","externalTrafficPolicy":"Local","loadBalancerClass":"example.org/a"}`,
	},
	{name: "ExternalName", spec: `{"type":"ExternalName","externalName":"example.org","ports":[{"port":80}]}`, change: `{"type":"ExternalName","externalName":"example.org"}`, external: true},
	{name: "headless", spec: `{"clusterIP":"None","selector":{"a":"b"},"ports":[{"port":80}]}`, change: `{"type":"ClusterIP","clusterIP":"None","clusterIPs":["None"],"selector":{"a":"b"}}`, headless: true},
	{name: "selectorless headless", spec: `{"clusterIP":"None","ports":[{"port":80}]}`, change: `{"type":"ClusterIP","clusterIP":"None","clusterIPs":["None"],"selector":null}`, headless: true},
}

// API-01, API-08: every kind of Service turns into every other, by a new manifest and
// by a patch. What stays is kept, the rest is given back: after each step the claims
// in the store are those of the object, no more and no fewer. What can't be is refused
// and changes nothing.
func TestServiceTypeChanges(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, from := range shapes {
		for _, to := range shapes {
			for _, patch := range []bool{false, true} {
				name := from.name + " to " + to.name
				if patch {
					name += " by patch"
				}
				t.Run(name, func(t *testing.T) { changeType(t, s, from, to, patch) })
			}
		}
	}
}

func changeType(t *testing.T, s *apitest.Server, from, to serviceShape, patch bool) {
	at := servicesPath + "/web"
	old := serviceOf(t, ask(t, s, "POST", servicesPath, `{"metadata":{"name":"web"},"spec":`+from.spec+`}`).want(t, 201))
	defer func() {
		ask(t, s, "DELETE", at, "").want(t, 200)
		checkClaims(t, s)
	}()
	if from.loadBalancer {
		askAs(t, s, "PATCH", at+"/status", "application/merge-patch+json", `{"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}`).want(t, 200)
	}
	var got answer
	if patch {
		got = askAs(t, s, "PATCH", at, "application/merge-patch+json", `{"spec":`+to.change+`}`)
	} else {
		got = ask(t, s, "PUT", at, `{"metadata":{"name":"web"},"spec":`+to.spec+`}`)
	}
	after := serviceOf(t, ask(t, s, "GET", at, "").want(t, 200))
	checkClaims(t, s, after)
	switch {
	case from.headless && to.nodePorts:
		got.want(t, 422, "spec.clusterIPs[0]", "may not be set to 'None' for "+to.name+" services")
	case to.headless && !from.headless && !from.external:
		got.want(t, 422, "spec.clusterIPs[0]", "may not change once set")
	default:
		got.want(t, 200)
		checkChanged(t, old, after, from, to)
		return
	}
	after.ResourceVersion, after.ManagedFields, after.Status = old.ResourceVersion, old.ManagedFields, old.Status
	if a, b := asJSON(t, old), asJSON(t, after); a != b {
		t.Errorf("a refused change was written:\n%s\n%s", a, b)
	}
}

// checkChanged compares what the change must keep, give and take.
func checkChanged(t *testing.T, old, after *corev1.Service, from, to serviceShape) {
	t.Helper()
	spec, was := &after.Spec, &old.Spec
	switch {
	case to.external:
		if spec.ClusterIP != "" || len(spec.ClusterIPs)+len(spec.IPFamilies) > 0 || spec.IPFamilyPolicy != nil {
			t.Errorf("an ExternalName has %v %v", spec.ClusterIPs, spec.IPFamilies)
		}
	case !from.external:
		// Two addresses stay two: only the policy SingleStack gives one up.
		if n := len(was.ClusterIPs); len(spec.ClusterIPs) < n || !slices.Equal(spec.ClusterIPs[:n], was.ClusterIPs) {
			t.Errorf("the cluster IPs %v became %v", was.ClusterIPs, spec.ClusterIPs)
		}
	case to.headless != (spec.ClusterIP == "None") || spec.ClusterIP == "":
		t.Errorf("cluster IP %q", spec.ClusterIP)
	}
	if want := len(spec.IPFamilies); !to.external && spec.ClusterIP != "None" && len(spec.ClusterIPs) != want {
		t.Errorf("%d families, and addresses %v", want, spec.ClusterIPs)
	}
	for _, p := range spec.Ports {
		switch had := was.Ports != nil && was.Ports[0].NodePort != 0; {
		case to.nodePorts != (p.NodePort != 0):
			t.Errorf("node port %d", p.NodePort)
		case to.nodePorts && had && p.NodePort != was.Ports[0].NodePort:
			t.Errorf("the node port %d became %d", was.Ports[0].NodePort, p.NodePort)
		}
	}
	if to.classAndHealthCheckNodePort != (spec.HealthCheckNodePort != 0) ||
		to.classAndHealthCheckNodePort != (spec.LoadBalancerClass != nil) ||
		to.loadBalancer != (spec.AllocateLoadBalancerNodePorts != nil) {
		t.Errorf("left of a load balancer: health check port %d, class %v, allocate %v", spec.HealthCheckNodePort, spec.LoadBalancerClass, spec.AllocateLoadBalancerNodePorts)
	}
	if to.nodePorts != (spec.ExternalTrafficPolicy != "") {
		t.Errorf("externalTrafficPolicy %q", spec.ExternalTrafficPolicy)
	}
	if kept := len(after.Status.LoadBalancer.Ingress) > 0; kept != (from.loadBalancer && to.loadBalancer) {
		t.Errorf("status %+v", after.Status)
	}
}

// API-06, API-07: the second family comes and goes, with its claim.
func TestServiceFamilies(t *testing.T) {
	t.Parallel()
	s := start(t)
	at := servicesPath + "/web"
	first := serviceOf(t, ask(t, s, "POST", servicesPath, `{"metadata":{"name":"web"},"spec":{"ports":[{"port":80}]}}`).want(t, 201))
	patch := func(spec string) answer {
		return askAs(t, s, "PATCH", at, "application/merge-patch+json", `{"spec":`+spec+`}`)
	}
	for _, step := range []struct {
		patch string
		code  int
		want  string
		n     int
	}{
		{`{"ipFamilyPolicy":"PreferDualStack"}`, 200, "", 2},
		{`{"ipFamilyPolicy":"RequireDualStack"}`, 200, "", 2},
		{`{"ipFamilies":["IPv4"]}`, 422, "must be 'SingleStack' to release the secondary IP family", 2},
		{`{"ipFamilies":["IPv6","IPv4"]}`, 422, "spec.ipFamilies[0]", 2},
		{`{"clusterIP":"10.96.0.9"}`, 422, "may not change once set", 2},
		{`{"clusterIP":"None","clusterIPs":["None"]}`, 422, "may not change once set", 2},
		{`{"ipFamilyPolicy":"SingleStack"}`, 200, "", 1},
		{`{"ipFamilies":["IPv4","IPv6"]}`, 422, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified", 1},
		{`{"ipFamilyPolicy":"PreferDualStack","clusterIPs":["` + first.Spec.ClusterIP + `","fd00:10:96::99"]}`, 200, "fd00:10:96::99", 2},
		{`{"ipFamilyPolicy":"SingleStack","ipFamilies":["IPv4"],"clusterIPs":["` + first.Spec.ClusterIP + `"]}`, 200, "", 1},
	} {
		patch(step.patch).want(t, step.code, step.want)
		got := serviceOf(t, ask(t, s, "GET", at, "").want(t, 200))
		if len(got.Spec.ClusterIPs) != step.n || got.Spec.ClusterIP != first.Spec.ClusterIP {
			t.Errorf("after %s: %v", step.patch, got.Spec.ClusterIPs)
		}
		checkClaims(t, s, got)
	}
}

// API-07: what a cluster with one family gives to those who ask for two.
func TestServiceFamiliesOfOne(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *apiserver.Config) { c.ServiceCIDRs = c.ServiceCIDRs[:1] })
	for _, tc := range []struct {
		spec string
		code int
		want string
	}{
		{`{"ipFamilyPolicy":"RequireDualStack","ports":[{"port":80}]}`, 422, `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{`{"ipFamilies":["IPv6"],"ports":[{"port":80}]}`, 422, `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{`{"ipFamilyPolicy":"PreferDualStack","ports":[{"port":80}]}`, 201, `"ipFamilies":["IPv4"]`},
		{`{"clusterIP":"None"}`, 201, `"ipFamilies":["IPv4","IPv6"],"ipFamilyPolicy":"RequireDualStack"`},
		{`{"clusterIP":"None","selector":{"a":"b"}}`, 201, `"ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack"`},
		{`{"clusterIP":"None","selector":{"a":"b"},"ipFamilyPolicy":"RequireDualStack"}`, 422, "not configured for dual-stack services"},
	} {
		ask(t, s, "POST", servicesPath, `{"metadata":{"generateName":"web-"},"spec":`+tc.spec+`}`).want(t, tc.code, tc.want)
	}
}

// serviceOf reads the Service of an answer.
func serviceOf(t testing.TB, a answer) *corev1.Service {
	t.Helper()
	svc := &corev1.Service{}
	if err := json.Unmarshal([]byte(a.body), svc); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	return svc
}

// checkClaims fails unless the store holds the claims of these Services and no others.
func checkClaims(t testing.TB, s *apitest.Server, services ...*corev1.Service) {
	t.Helper()
	want := map[string]string{}
	for _, svc := range services {
		for _, c := range ipam.ServiceClaims(svc) {
			want[c.Key] = string(c.Owner)
		}
	}
	if got := claimsIn(t, s); !maps.Equal(got, want) {
		t.Errorf("claims %v, want %v", got, want)
	}
}

// claimsIn gives the owner of each address and port that is claimed in the store.
func claimsIn(t testing.TB, s *apitest.Server) map[string]string {
	t.Helper()
	got := claimsOf(t, s)
	maps.DeleteFunc(got, func(key, _ string) bool { // what Services claim stays
		return !strings.HasPrefix(key, "ip/") && !strings.HasPrefix(key, "nodeport/")
	})
	return got
}

func asJSON(t testing.TB, obj any) string {
	t.Helper()
	raw, err := json.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
