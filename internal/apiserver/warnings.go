package apiserver

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"regexp"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/yaml"

	"portico.dev/portico/internal/apiserver/kinds"
)

// portsAsMap is the advice of API-05: several printed manuals show ports this way.
const portsAsMap = `spec.ports is a list: put "- " before its first key`

// withWarnings adds the warnings that belong to a request and not to an object, and
// translates the fields of old manifests that today's types don't have (API-03).
func withWarnings(next http.Handler, maxBody int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || !info.IsResourceRequest || info.APIGroup != "" {
			next.ServeHTTP(w, req)
			return
		}
		switch {
		case info.Resource == "endpoints":
			warning.AddWarning(req.Context(), "", kinds.EndpointsDeprecated)
		case info.Resource == "services" && info.Subresource == "":
			if err := inspectService(req, info.Verb, maxBody); err != nil {
				refuse(w, err)
				return
			}
		}
		next.ServeHTTP(w, req)
	})
}

// bodyForm is what a body holds.
type bodyForm int

const (
	unknownForm bodyForm = iota // protobuf, CBOR, or nothing the server knows: not for us
	wholeForm                   // an object, or the configuration that an apply sends
	mergeForm                   // a merge or strategic merge patch: null removes
	jsonPatchForm
)

// formOf tells the form of a write's body, and whether it is written in YAML.
func formOf(verb, contentType string) (form bodyForm, isYAML bool) {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		media = contentType
	}
	if verb == "patch" {
		switch types.PatchType(media) {
		case types.JSONPatchType:
			return jsonPatchForm, false
		case types.MergePatchType, types.StrategicMergePatchType:
			return mergeForm, false
		case types.ApplyYAMLPatchType:
			return wholeForm, true
		}
		return unknownForm, false
	}
	switch media {
	case "", runtime.ContentTypeJSON: // JSON is what the library assumes, too
		return wholeForm, false
	case runtime.ContentTypeYAML:
		return wholeForm, true
	}
	return unknownForm, false
}

// inspectService looks into the body of a write of a Service and leaves one to be
// read again: its own bytes, or those of the translated legacy fields. An error is
// for the client.
func inspectService(req *http.Request, verb string, maxBody int64) *apierrors.StatusError {
	if verb != "create" && verb != "update" && verb != "patch" {
		return nil
	}
	form, isYAML := formOf(verb, req.Header.Get("Content-Type"))
	if form == unknownForm {
		return nil
	}
	// The handler refuses what is longer, and meets the same error.
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody+1))
	if err != nil || int64(len(body)) > maxBody {
		setBody(req, io.MultiReader(bytes.NewReader(body), req.Body))
		return nil
	}
	fresh, warnings, refused := inspectBody(body, form, isYAML)
	for _, text := range warnings {
		warning.AddWarning(req.Context(), "", text)
	}
	setBody(req, bytes.NewReader(fresh))
	req.ContentLength = int64(len(fresh))
	return refused
}

// setBody replaces what is read, and closes what was.
func setBody(req *http.Request, r io.Reader) {
	req.Body = struct {
		io.Reader
		io.Closer
	}{r, req.Body}
}

// inspectBody gives the body for the handler with the Warnings that it earned. Bytes
// that don't parse are handed on as they came: the handler says what is wrong.
func inspectBody(body []byte, form bodyForm, isYAML bool) ([]byte, []string, *apierrors.StatusError) {
	legacy, ports := mentionsLegacy(body), bytes.Contains(body, []byte("ports"))
	if !legacy && !ports {
		return body, nil, nil
	}
	doc := body
	if isYAML {
		var err error
		if doc, err = yaml.YAMLToJSONStrict(body); err != nil {
			return body, nil, nil
		}
	}
	var warnings []string
	if ports && form != jsonPatchForm && hasPortsAsMap(doc) {
		warnings = append(warnings, portsAsMap)
	}
	if !legacy || !json.Valid(doc) {
		return body, warnings, nil
	}
	t := translation{form: form}
	fresh, changed := t.translate(doc)
	if len(t.errs) > 0 {
		return body, append(warnings, t.warnings...), t.invalid()
	}
	if !changed {
		return body, warnings, nil
	}
	return fresh, append(warnings, t.warnings...), nil
}

// portsMap finds what may be spec.ports as a map, without decoding every body.
var portsMap = regexp.MustCompile(`"ports"\s*:\s*\{`)

func hasPortsAsMap(doc []byte) bool {
	if !portsMap.Match(doc) {
		return false
	}
	var svc struct {
		Spec struct {
			Ports json.RawMessage `json:"ports"`
		} `json:"spec"`
	}
	return json.Unmarshal(doc, &svc) == nil && bytes.HasPrefix(bytes.TrimSpace(svc.Spec.Ports), []byte("{"))
}

// refuse answers with the error. Every client reads a Status in JSON.
func refuse(w http.ResponseWriter, err *apierrors.StatusError) {
	status := err.Status()
	status.Kind, status.APIVersion = "Status", "v1"
	w.Header().Set("Content-Type", runtime.ContentTypeJSON)
	w.WriteHeader(int(status.Code))
	// A client that is gone doesn't read it; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(status)
}
