package cli

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// firstWait bounds how long requests wait for the connection that another one opens.
const firstWait = time.Second

// dialOnce has the clients of a configuration wait for one connection at their start.
// HTTP/2 carries all their requests on one, but net/http opens one for each request
// that comes while there is none, and a start makes a dozen requests at once: so many
// handshakes of TLS take both sides longer than the rest of their work for them.
func dialOnce(config *rest.Config) {
	d := &firstDial{wait: firstWait, turn: make(chan struct{}, 1), there: make(chan struct{})}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return &afterFirstDial{d, next} })
}

// firstDial is the state that the clients share.
type firstDial struct {
	wait  time.Duration // firstWait, but in tests
	turn  chan struct{} // holds a token while a request tries to get the connection
	there chan struct{} // closed once one has it
	once  sync.Once
}

// afterFirstDial is a client's transport.
type afterFirstDial struct {
	*firstDial
	next http.RoundTripper
}

// WrappedRoundTripper gives the transport that this one leads to, to those who look for
// its settings (k8s.io/apimachinery/pkg/util/net).
func (t *afterFirstDial) WrappedRoundTripper() http.RoundTripper { return t.next }

// RoundTrip implements http.RoundTripper.
func (t *afterFirstDial) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-t.there:
		return t.next.RoundTrip(r)
	default:
	}
	late := time.NewTimer(t.wait)
	defer late.Stop()
	select {
	case <-t.there:
	case <-late.C: // a server that doesn't answer has nobody wait in a row
	case <-r.Context().Done():
		if r.Body != nil {
			_ = r.Body.Close() // as a RoundTripper must
		}
		return nil, context.Cause(r.Context())
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	}
	return t.next.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { t.once.Do(func() { close(t.there) }) },
	})))
}
