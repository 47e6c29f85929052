package apiserver_test

import (
	"strings"
	"testing"
)

const (
	strategicPatch = "application/strategic-merge-patch+json"
	jsonPatch      = "application/json-patch+json"
	applyPatch     = "application/apply-patch+yaml"
	strict         = "?fieldValidation=Strict"
	topologyKeys   = "portico.dev/topology-keys"
)

// API-03: manifests with the fields that Kubernetes has dropped, as strict clients send
// them.
func TestLegacyFields(t *testing.T) {
	t.Parallel()
	s := start(t)
	const (
		familyWarning = "spec.ipFamily is a legacy field; it was read as spec.ipFamilies"
		keysWarning   = "spec.topologyKeys is a legacy field; it was read as the annotation " + topologyKeys
	)
	for _, tc := range []struct {
		name, body string
		code       int
		want       []string
	}{
		{"family", `{"ipFamily":"IPv6","ports":[{"port":80}]}`, 201, []string{familyWarning, `"ipFamilies":["IPv6"],"ipFamilyPolicy":"SingleStack"`, `"clusterIP":"fd00:10:96::`}},
		{"family and its policy", `{"ipFamily":"IPv6","ipFamilyPolicy":"PreferDualStack","ports":[{"port":80}]}`, 201, []string{familyWarning, `"ipFamilies":["IPv6","IPv4"]`}},
		{"family of both ages", `{"ipFamily":"IPv4","ipFamilies":["IPv6"],"ports":[{"port":80}]}`, 201, []string{"spec.ipFamily is a legacy field and is ignored, because spec.ipFamilies is set", `"ipFamilies":["IPv6"]`}},
		{"no such family", `{"ipFamily":"IPv5","ports":[{"port":80}]}`, 422, []string{familyWarning, `spec.ipFamilies[0]: Unsupported value: "IPv5"`}},
		{"family of another type", `{"ipFamily":4,"ports":[{"port":80}]}`, 400, []string{familyWarning, "ServiceSpec.spec.ipFamilies"}},
		{"no family", `{"ipFamily":null,"ports":[{"port":80}]}`, 201, []string{`"ipFamilies":["IPv4"]`}},
		{"keys", `{"topologyKeys":["kubernetes.io/hostname","*"],"ports":[{"port":80}]}`, 201, []string{keysWarning, `"portico.dev/topology-keys":"kubernetes.io/hostname,*"`}},
		{"no keys", `{"topologyKeys":[],"ports":[{"port":80}]}`, 201, []string{keysWarning}},
		{"* before others", `{"topologyKeys":["*","a"],"ports":[{"port":80}]}`, 422, []string{keysWarning, "metadata.annotations[portico.dev/topology-keys][0]", `"*" must be the last value specified`}},
		{"too many keys", `{"topologyKeys":["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p","q"],"ports":[{"port":80}]}`, 422, []string{"must have at most 16 items"}},
		{"not with Local", `{"type":"NodePort","externalTrafficPolicy":"Local","topologyKeys":["a"],"ports":[{"port":80}]}`, 422, []string{"may not be specified when `externalTrafficPolicy=Local`"}},
		{"no list of keys", `{"topologyKeys":"a","ports":[{"port":80}]}`, 422, []string{"spec.topologyKeys: Invalid value", "must be a list of label keys"}},
		{"empty and joined keys", `{"topologyKeys":["","a,b"],"ports":[{"port":80}]}`, 422, []string{"spec.topologyKeys[0]: Required value", `spec.topologyKeys[1]: Invalid value: "a,b"`}},
		{"what else is unknown", `{"topologyKeys":["a"],"portz":[],"ports":[{"port":80}],"ipFamily":"IPv4","type":"ClusterIP","type":"NodePort"}`, 400, []string{`unknown field "spec.portz"`, `duplicate field "spec.type"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ask(t, s, "POST", servicesPath+strict, `{"apiVersion":"v1","kind":"Service","metadata":{"generateName":"web-"},"spec":`+tc.body+`}`).want(t, tc.code, tc.want...)
		})
	}

	// YAML, and server-side apply.
	const manifest = "apiVersion: v1\nkind: Service\nmetadata:\n  name: %\n  annotations: {a: b}\nspec:\n  ipFamily: IPv6\n  topologyKeys: [x]\n  ports: [{port: 80}]\n"
	askAs(t, s, "POST", servicesPath+strict, "application/yaml", strings.Replace(manifest, "%", "yaml", 1)).
		want(t, 201, familyWarning, keysWarning, `"a":"b","portico.dev/topology-keys":"x"`, `"ipFamilies":["IPv6"]`)
	for _, code := range []int{201, 200} {
		askAs(t, s, "PATCH", servicesPath+"/applied"+strict+"&fieldManager=test", applyPatch, strings.Replace(manifest, "%", "applied", 1)).
			want(t, code, familyWarning, keysWarning, `"portico.dev/topology-keys":"x"`, `"ipFamilies":["IPv6"]`)
	}
	for _, w := range ask(t, s, "POST", servicesPath+strict, `{"metadata":{"name":"new"},"spec":{"ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{"port":80}]}}`).want(t, 201).warnings {
		t.Errorf("a Warning for a manifest of today: %s", w)
	}
}

// API-03: patches, in each of their forms.
func TestLegacyPatches(t *testing.T) {
	t.Parallel()
	s := start(t)
	at := servicesPath + "/web" + strict
	ask(t, s, "POST", servicesPath, `{"metadata":{"name":"web"},"spec":{"ports":[{"port":80}]}}`).want(t, 201)
	annotation := func(a answer) any {
		m, _ := a.field(t, "metadata.annotations").(map[string]any)
		return m[topologyKeys]
	}
	for _, form := range []string{mergePatch, strategicPatch} {
		if got := annotation(askAs(t, s, "PATCH", at, form, `{"spec":{"topologyKeys":["a","*"]}}`).want(t, 200)); got != "a,*" {
			t.Errorf("%s: %v", form, got)
		}
		if got := annotation(askAs(t, s, "PATCH", at, form, `{"spec":{"topologyKeys":null}}`).want(t, 200)); got != nil {
			t.Errorf("%s left %v", form, got)
		}
		askAs(t, s, "PATCH", at, form, `{"spec":{"ipFamily":"IPv4"}}`).want(t, 200)
		askAs(t, s, "PATCH", at, form, `{"spec":{"ipFamily":"IPv6"}}`).want(t, 422, "spec.ipFamilies[0]", "may not change once set")
	}
	for _, tc := range []struct {
		ops  string
		code int
		want string
	}{
		{`[{"op":"add","path":"/spec/ipFamily","value":"IPv4"},{"op":"replace","path":"/spec/ports/0/port","value":81}]`, 200, `"port":81`},
		{`[{"op":"test","path":"/spec/ipFamily","value":"IPv6"}]`, 422, "it was read as spec.ipFamilies[0]: use that"},
		{`[{"op":"test","path":"/spec/ipFamily","value":"IPv4"}]`, 200, ""},
		{`[{"op":"replace","path":"/spec/ipFamily","value":"IPv6"}]`, 422, "may not change once set"},
		{`[{"op":"remove","path":"/spec/ipFamily"}]`, 200, "use spec.ipFamilies"},
		{`[{"op":"move","from":"/spec/ipFamily","path":"/spec/type"}]`, 422, "a JSON patch can only add, replace, remove or test this legacy field"},
		{`[{"op":"add","path":"/spec/topologyKeys","value":["a"]}]`, 422, "change the annotation " + topologyKeys},
	} {
		askAs(t, s, "PATCH", at, jsonPatch, tc.ops).want(t, tc.code, tc.want)
	}
}
