package apiserver

import (
	"bytes"
	"encoding/json"
	"testing"
)

// API-03: whatever a body holds, what leaves the translation is JSON if JSON came in,
// has no legacy field left, and is nothing new to a second translation. A body that
// mentions no legacy field isn't touched.
func FuzzLegacyFields(f *testing.F) {
	for _, seed := range []string{
		`{"metadata":{"annotations":{"a":"b"}},"spec":{"ipFamily":"IPv4","topologyKeys":["a","*"],"ports":[{"port":80}]}}`,
		`{"spec":{"ipFamily":null,"topologyKeys":null},"metadata":null}`,
		`{"spec":{"topologyKeys":["a"],"topologyKeys":[],"ipFamily":"x","ipFamily":[1]},"spec":{"ipFamily":"IPv6"}}`,
		`[{"op":"add","path":"/spec/ipFamily","value":"IPv4"},{"op":"test","path":"/spec/ipFamily","value":null}]`,
		`[{"op":"add","path":"/spec/topologyKeys/-","value":"a"},{"from":"/spec/ipFamily"}]`,
		"metadata: {annotations: {a: b}}\nspec:\n  topologyKeys: [a, \"*\"]\n  ipFamily: IPv6\n  ports: {port: 80}\n",
		"spec: &a {ipFamily: IPv4, topologyKeys: *a}", `{"spec":"topologyKeys"}`, "ipFamily",
	} {
		for form := range byte(4) {
			f.Add(form, true, []byte(seed))
			f.Add(form, false, []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, form byte, isYAML bool, body []byte) {
		before := bytes.Clone(body)
		fresh, warnings, refused := inspectBody(body, bodyForm(form%4), isYAML)
		if !bytes.Equal(body, before) {
			t.Fatal("the client's bytes were changed")
		}
		if bytes.Equal(fresh, body) {
			return
		}
		switch {
		case refused != nil:
			t.Error("a refused body was changed")
		case !mentionsLegacy(body):
			t.Errorf("%q was changed to %q", body, fresh)
		case len(warnings) == 0:
			t.Errorf("%q became %q without a Warning", body, fresh)
		case !json.Valid(fresh):
			t.Errorf("%q became %q", body, fresh)
		}
		again, _, refused := inspectBody(fresh, bodyForm(form%4), isYAML)
		if refused == nil && !bytes.Equal(again, fresh) {
			t.Errorf("%q became %q and then %q", body, fresh, again)
		}
	})
}
