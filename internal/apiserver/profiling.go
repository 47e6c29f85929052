package apiserver

import (
	"net/http"
	"net/netip"
	"strings"
)

// withLocalProfiles hides what is below /debug from other hosts: a profile takes a
// processor's time, and a trace tells of other people's requests. Roles decide who on
// this host may have them.
func withLocalProfiles(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasPrefix(req.URL.Path, "/debug/") {
			from, err := netip.ParseAddrPort(req.RemoteAddr)
			if err != nil || !from.Addr().Unmap().IsLoopback() {
				http.NotFound(w, req)
				return
			}
		}
		next.ServeHTTP(w, req)
	})
}
