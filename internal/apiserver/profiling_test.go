package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// Profiles are for this host; everything else is for all.
func TestProfilesAreHiddenFromOtherHosts(t *testing.T) {
	handler := withLocalProfiles(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for _, c := range []struct {
		from, path string
		want       int
	}{
		{"127.0.0.1:1", "/debug/pprof/heap", http.StatusOK},
		{"[::1]:1", "/debug/pprof/heap", http.StatusOK},
		{"192.0.2.1:1", "/debug/pprof/heap", http.StatusNotFound},
		{"", "/debug/pprof/heap", http.StatusNotFound},
		{"192.0.2.1:1", "/api", http.StatusOK},
	} {
		req, w := httptest.NewRequest(http.MethodGet, c.path, nil), httptest.NewRecorder()
		req.RemoteAddr = c.from
		if handler.ServeHTTP(w, req); w.Code != c.want {
			t.Errorf("%q asks for %s: %d, want %d", c.from, c.path, w.Code, c.want)
		}
	}
}
