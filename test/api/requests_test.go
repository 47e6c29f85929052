package api

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
)

// Requests that clients send which can't be had here, as their public sources have
// them: oc 4.x (github.com/openshift/oc) is built on kubectl and asks for OpenShift's
// own groups besides; virtctl expose (github.com/kubevirt/kubevirt) reads a machine and
// writes a Service. What isn't served must be a clean 404, at which both go on or say
// so. This is no proof that the programs work.
func TestRequestsOfOtherClients(t *testing.T) {
	const (
		older = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"
		newer = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
		// Its Go types write what is empty, too: an empty target port means the port.
		exposed = `{"kind":"Service","apiVersion":"v1","metadata":{"name":"ssh","namespace":"default","creationTimestamp":null},
			"spec":{"ports":[{"protocol":"TCP","port":22,"targetPort":""}],"selector":{"kubevirt.io/vm":"vm"},"type":"NodePort"},"status":{"loadBalancer":{}}}`
		manual = `{"apiVersion":"v1","kind":"Service","metadata":{"name":"vmservice","namespace":"default"},
			"spec":{"externalTrafficPolicy":"Cluster","ports":[{"nodePort":30000,"port":27017,"protocol":"TCP","targetPort":22}],"selector":{"special":"key"},"type":"NodePort"}}`
	)
	s := startWithDefault(t)
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		command, method, path, accept, body string
		code                                int
		want                                string
	}{
		{"any: discovery", "GET", "/api?timeout=32s", newer, "", 200, `"kind":"APIGroupDiscoveryList"`},
		{"any: discovery", "GET", "/apis?timeout=32s", newer, "", 200, `"resource":"virtualmachines"`},
		{"before 1.26: discovery", "GET", "/apis?timeout=32s", "application/json, */*", "", 200, `"name":"apiextensions.k8s.io"`},
		{"before 1.26: discovery", "GET", "/api/v1?timeout=32s", "application/json, */*", "", 200, `"shortNames":["svc"]`},
		{"oc create -f", "POST", "/api/v1/namespaces/default/services?fieldManager=oc&fieldValidation=Strict", "application/json", manual, 201, `"nodePort":30000`},
		{"oc get service -n default", "GET", "/api/v1/namespaces/default/services?limit=500", older, "", 200, `"kind":"Table"`},
		{"oc whoami", "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "application/json", `{"kind":"SelfSubjectReview","apiVersion":"authentication.k8s.io/v1"}`, 201, `"username":"system:apiserver"`},
		{"oc whoami, older", "GET", "/apis/user.openshift.io/v1/users/~", "application/json", "", 404, "404 page not found"},
		{"oc project", "GET", "/apis/project.openshift.io/v1/projects/default", "application/json", "", 404, "404 page not found"},
		{"oc new-project", "POST", "/apis/project.openshift.io/v1/projectrequests", "application/json", `{}`, 404, "404 page not found"},
		{"oc expose service", "POST", "/apis/route.openshift.io/v1/namespaces/default/routes", "application/json", `{}`, 404, "404 page not found"},
		{"oc: discovery of a group", "GET", "/apis/route.openshift.io/v1?timeout=32s", "application/json, */*", "", 404, "404 page not found"},
		{"oc login", "GET", "/.well-known/oauth-authorization-server", "application/json", "", 404, ""},
		{"virtctl expose", "POST", "/api/v1/namespaces/default/services", "application/json, */*", exposed, 201, `"targetPort":22`},
		{"virtctl start", "PUT", "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/nobody/start", "application/json", `{}`, 404, `\"nobody\" not found`},
	} {
		code, got := send(t, client, r.method, s.Config.Host+r.path, r.accept, r.body)
		if code != r.code || !strings.Contains(got, r.want) {
			t.Errorf("%s: %s %s: got %d %s, want %d with %s", r.command, r.method, r.path, code, got, r.code, r.want)
		}
	}
}

func send(t *testing.T, client *http.Client, method, url, accept, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}
