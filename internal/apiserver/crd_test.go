package apiserver_test

import (
	"fmt"
	"testing"

	"portico.dev/portico/internal/apiserver/apitest"
)

const poolCRD = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"pools.example.dev"},"spec":{
	"group":"example.dev","scope":"Namespaced","names":{"kind":"Pool","plural":"pools","singular":"pool"},"versions":[{"name":"v1","served":true,"storage":true,
	"subresources":{"status":{}},"schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object","properties":{"size":{"type":"integer"}}}}}}}]}}`

// Definitions, their objects and Services are there again after a restart; what is
// defined is in discovery and OpenAPI.
func TestDefinitionsOutliveARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := apitest.StartIn(t, dir)
	makeNamespace(t, s, "default")
	ask(t, s, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", poolCRD).want(t, 201)
	const pools = "/apis/example.dev/v1/namespaces/default/pools"
	expect := func(what string, code int, try func() answer) {
		t.Helper()
		apitest.Eventually(t, what, func() error {
			if a := try(); a.code != code {
				return fmt.Errorf("%d: %s", a.code, a.body)
			}
			return nil
		})
	}
	expect("an object of the definition", 201, func() answer {
		return ask(t, s, "POST", pools, `{"apiVersion":"example.dev/v1","kind":"Pool","metadata":{"name":"one"},"spec":{"size":3}}`)
	})
	ask(t, s, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"web"},"spec":{"clusterIP":"10.96.0.20","ports":[{"port":80}]}}`).want(t, 201)
	s.Stop()
	s = apitest.StartIn(t, dir)
	expect("the object after a restart", 200, func() answer { return ask(t, s, "GET", pools+"/one", "") })
	ask(t, s, "POST", pools, `{"apiVersion":"example.dev/v1","kind":"Pool","metadata":{"name":"two"},"spec":{"size":"big"}}`).want(t, 422, "spec.size")
	ask(t, s, "POST", "/apis/example.dev/v1/namespaces/nowhere/pools", `{"apiVersion":"example.dev/v1","kind":"Pool","metadata":{"name":"two"}}`).want(t, 404)
	ask(t, s, "GET", "/apis/example.dev/v1", "").want(t, 200, `"pools/status"`)
	expect("its OpenAPI", 200, func() answer { return ask(t, s, "GET", "/openapi/v3/apis/example.dev/v1", "") })
	ask(t, s, "GET", "/apis/absent.dev/v1", "").want(t, 404)
	ask(t, s, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"thief"},"spec":{"clusterIP":"10.96.0.20","ports":[{"port":80}]}}`).want(t, 422)
}
