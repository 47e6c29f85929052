package apiserver

import (
	"net/http"
	"sync/atomic"
	"time"

	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericfilters "k8s.io/apiserver/pkg/server/filters"
)

// Limits bound what requests take from the server. A zero value means the default.
type Limits struct {
	// ReadOnly and Mutating are how many requests of their sort are worked on at once;
	// one more is answered 429 with Retry-After. Watches, consoles and other long
	// requests don't count, nor do probes, nor requests of system:masters.
	ReadOnly, Mutating int
	// Request is how long a request may take that isn't a long one; then it is answered 504.
	Request time.Duration
}

// The defaults are kube-apiserver's: --max-requests-inflight,
// --max-mutating-requests-inflight, --request-timeout.
const (
	DefaultReadOnly = 400
	DefaultMutating = 200
	DefaultRequest  = time.Minute
)

func (l Limits) withDefaults() Limits {
	if l.ReadOnly == 0 {
		l.ReadOnly = DefaultReadOnly
	}
	if l.Mutating == 0 {
		l.Mutating = DefaultMutating
	}
	if l.Request == 0 {
		l.Request = DefaultRequest
	}
	return l
}

// use has the library apply the limits. It would count probes too, so that an
// overloaded server looked dead, and was restarted; hence its own counting is off (the
// zeros), and the same filter stands inside the chain, after authorization.
func (l Limits) use(config *genericapiserver.Config) {
	config.MaxRequestsInFlight, config.MaxMutatingRequestsInFlight = 0, 0
	config.RequestTimeout = l.Request
}

// limit answers 429 beyond the limits.
func (l Limits) limit(handler http.Handler, long genericrequest.LongRunningRequestCheck) http.Handler {
	return genericfilters.WithMaxInFlightLimit(handler, l.ReadOnly, l.Mutating, func(r *http.Request, info *genericrequest.RequestInfo) bool {
		return long(r, info) || isProbe(info)
	})
}

// isProbe says whether a request asks for the server's health, or for one check of it.
func isProbe(info *genericrequest.RequestInfo) bool {
	if info.IsResourceRequest {
		return false
	}
	for _, probe := range []string{"/healthz", "/livez", "/readyz"} {
		if info.Path == probe || len(info.Path) > len(probe) && info.Path[:len(probe)+1] == probe+"/" {
			return true
		}
	}
	return false
}

// withWritesCounted counts the requests that may change something.
func withWritesCounted(next http.Handler, writes *atomic.Uint64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead {
			writes.Add(1)
		}
		next.ServeHTTP(w, req)
	})
}

// Writes is how many requests there were that may have changed something.
func (s *Server) Writes() uint64 { return s.writes.Load() }
