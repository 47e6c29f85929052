package apiserver_test

import (
	"fmt"
	"strings"
	"testing"
)

const verbsPath = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/"

// VM-01: the verbs by virtctl's paths: 202 for what is done, 409 with the reason.
func TestMachineVerbs(t *testing.T) {
	t.Parallel()
	s := start(t)
	ask(t, s, "POST", vmsPath, vm("web", "", halted)).want(t, 201)
	ask(t, s, "PUT", verbsPath+"web/restart", `{}`).want(t, 409, "does not support manual restart requests", "portico vm start web")
	ask(t, s, "PUT", verbsPath+"web/stop", `{}`).want(t, 409, "VM is not running")
	if a := ask(t, s, "PUT", verbsPath+"web/start", ``).want(t, 202); a.body != "" {
		t.Errorf("got a body: %s", a.body)
	}
	got := ask(t, s, "GET", vmsPath+"/web", "").want(t, 200)
	if got.field(t, "spec.runStrategy") != "Always" || fmt.Sprint(got.field(t, "metadata.generation")) != "2" {
		t.Errorf("got %s", got.body)
	}
	ask(t, s, "PUT", verbsPath+"web/start", `{}`).want(t, 409, "Always does not support manual start requests")
	ask(t, s, "PUT", verbsPath+"web/start", `{"paused":true}`).want(t, 400)
	ask(t, s, "PUT", verbsPath+"web/start", `[]`).want(t, 400, "as JSON")
	ask(t, s, "PUT", verbsPath+"web/stop", `{}`).want(t, 202)
	ask(t, s, "PUT", verbsPath+"absent/start", `{}`).want(t, 404)
	ask(t, s, "GET", verbsPath+"web/start", ``).want(t, 405)

	t.Run("requests go into the status", func(t *testing.T) {
		ask(t, s, "POST", vmsPath, vm("manual", "", manual)).want(t, 201)
		ask(t, s, "PUT", verbsPath+"manual/start", `{}`).want(t, 202)
		got := ask(t, s, "GET", vmsPath+"/manual", "").want(t, 200, `"stateChangeRequests":[{"action":"Start"}]`)
		if fmt.Sprint(got.field(t, "metadata.generation")) != "1" {
			t.Errorf("the generation changed: %s", got.body)
		}
		ask(t, s, "PUT", verbsPath+"manual/start", `{}`).want(t, 409, "underway")
	})
	t.Run("console", func(t *testing.T) {
		path := "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachineinstances/"
		ask(t, s, "GET", path+"absent/console", "").want(t, 404)
		ask(t, s, "POST", vmisPath, lone).want(t, 201)
		ask(t, s, "GET", path+"lone/console", "").want(t, 409, "not running")
	})
	t.Run("discovery", func(t *testing.T) {
		ask(t, s, "GET", "/apis/subresources.kubevirt.io/v1", "").want(t, 200, `"virtualmachines/start"`, `"virtualmachineinstances/console"`)
	})
}

// A field that isn't honoured is refused with its path, or warned about.
func TestMachineFields(t *testing.T) {
	t.Parallel()
	s := start(t)
	ask(t, s, "POST", vmsPath, vm("both", "", halted+`,"running":true`)).want(t, 422, "spec.run")
	ask(t, s, "POST", vmsPath, vm("none", "", `"instancetype":null`)).want(t, 422, "spec.runStrategy")
	ask(t, s, "POST", vmsPath, strings.Replace(vm("gpu", "", halted), `"devices":{}`, `"devices":{"gpus":[{"name":"g","deviceName":"d"}]}`, 1)).
		want(t, 422, "spec.template.spec.domain.devices.gpus")
	warned := ask(t, s, "POST", vmsPath, strings.Replace(vm("warned", "", halted), `"devices":{}`, `"devices":{"blockMultiQueue":true}`, 1)).want(t, 201)
	if len(warned.warnings) == 0 {
		t.Errorf("no Warning: %s", warned.body)
	}
	misspelt := strings.Replace(vm("loose", "", halted), `"devices":{}`, `"devices":{},"cpuu":1`, 1)
	ask(t, s, "POST", vmsPath, misspelt).want(t, 201, `unknown field "spec.template.spec.domain.cpuu"`)
	ask(t, s, "POST", vmsPath+"?fieldValidation=Strict", strings.Replace(vm("strict", "", halted), `"devices":{}`, `"devicez":{}`, 1)).
		want(t, 400, `unknown field "spec.template.spec.domain.devicez"`)
}
