package apiserver_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"portico.dev/portico/internal/apiserver/apitest"
)

// The documents are made when somebody first asks: many may at once, the answers are
// whole each time, and what is defined later joins what is built in.
func TestOpenAPIOnDemand(t *testing.T) {
	t.Parallel()
	s := start(t)
	const core, list, v2 = "/openapi/v3/api/v1", "/openapi/v3", "/openapi/v2"
	paths := []string{core, list, v2, core, list, v2}
	first := make([]answer, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() { first[i] = ask(t, s, "GET", path, "") })
	}
	wg.Wait()
	for i, path := range paths {
		first[i].want(t, 200)
		if again := ask(t, s, "GET", path, ""); again.body != first[i].body {
			t.Errorf("%s: %d bytes, then %d", path, len(first[i].body), len(again.body))
		}
	}
	first[0].want(t, 200, `"io.k8s.api.core.v1.ServiceSpec"`, `"/api/v1/namespaces/{namespace}/services/{name}"`, `"topologyKeys"`)
	first[2].want(t, 200, `"io.k8s.api.core.v1.ServiceSpec"`, `"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines"`, `"topologyKeys"`)

	var groups struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(first[1].body), &groups); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"api/v1", "apis/apps/v1", "apis/kubevirt.io/v1", "apis/apiextensions.k8s.io/v1", "version"} {
		got := ask(t, s, "GET", groups.Paths[name].ServerRelativeURL, "").want(t, 200)
		if !strings.Contains(got.body, `"paths":{"/`) {
			t.Errorf("%s: no paths in %.200s", name, got.body)
		}
	}

	ask(t, s, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", poolCRD).want(t, 201)
	for path, parts := range map[string][]string{
		v2:   {`"dev.example.v1.Pool"`, `"io.k8s.api.core.v1.ServiceSpec"`, `"io.kubevirt.api.core.v1.VirtualMachine"`},
		list: {`apis/example.dev/v1`, groups.Paths["api/v1"].ServerRelativeURL},
	} {
		apitest.Eventually(t, path+" with the definition", func() error {
			got := ask(t, s, "GET", path, "").want(t, 200)
			for _, part := range parts {
				if !strings.Contains(got.body, part) {
					return fmt.Errorf("no %s in %d bytes", part, len(got.body))
				}
			}
			return nil
		})
	}
}
