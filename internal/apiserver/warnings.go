package apiserver

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"
)

// portsAsMap is the advice of API-05: several printed manuals show ports this way.
const portsAsMap = `spec.ports is a list: put "- " before its first key`

// withWarnings adds the warnings that belong to a request and not to an object.
func withWarnings(next http.Handler, maxBody int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := request.RequestInfoFrom(req.Context())
		if !ok || !info.IsResourceRequest || info.APIGroup != "" {
			next.ServeHTTP(w, req)
			return
		}
		switch info.Resource {
		case "endpoints":
			warning.AddWarning(req.Context(), "", endpointsDeprecated)
		case "services":
			if info.Verb == "create" || info.Verb == "update" {
				req = warnPortsAsMap(req, maxBody)
			}
		}
		next.ServeHTTP(w, req)
	})
}

// warnPortsAsMap looks into the body and leaves it to be read again.
func warnPortsAsMap(req *http.Request, maxBody int64) *http.Request {
	body, err := io.ReadAll(io.LimitReader(req.Body, maxBody+1))
	rest := req.Body
	req.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), rest), rest}
	if err != nil {
		return req // the handler meets the same error and answers it
	}
	var svc struct {
		Spec struct{ Ports json.RawMessage }
	}
	if json.Unmarshal(body, &svc) == nil && bytes.HasPrefix(bytes.TrimSpace(svc.Spec.Ports), []byte("{")) {
		warning.AddWarning(req.Context(), "", portsAsMap)
	}
	return req
}
