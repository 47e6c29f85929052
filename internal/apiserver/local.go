package apiserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// localAddress is where requests of this process come from, for the audit log.
const localAddress = "127.0.0.1:0"

// localBuffer is how much of an answer may wait for its reader before the handler
// does: a few watch events, as a socket would hold.
const localBuffer = 256 << 10

// LocalConfig is like LoopbackConfig without the network: requests pass authentication
// and all the rest, but neither TLS nor HTTP/2. It can't carry upgraded connections.
func (s *Server) LocalConfig() *rest.Config {
	config := s.LoopbackConfig()
	config.TLSClientConfig = rest.TLSClientConfig{}
	config.Transport = s.local
	return config
}

// Held is an object that was read from this server as its watch cache holds it, without
// managed fields: equal, and most of its memory is the cache's own, so nobody may change
// it. nil: the cache holds another version, or none. It gives away nothing that the
// caller hasn't got, and asks no permission.
func (s *Server) Held(obj runtime.Object) runtime.Object { return s.held(obj) }

// localTransport calls a handler in this process.
type localTransport struct {
	serving chan struct{} // closed when handler is set
	handler http.Handler
}

func newLocalTransport() *localTransport { return &localTransport{serving: make(chan struct{})} }

// serve lets the requests through that wait, and all later ones.
func (t *localTransport) serve(handler http.Handler) {
	t.handler = handler
	close(t.serving)
}

// RoundTrip implements http.RoundTripper. It returns with the head of the answer, when
// the handler flushes it or ends.
func (t *localTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	defer func() {
		if req.Body != nil {
			req.Body.Close() // the interface asks for it; handlers may leave a body
		}
	}()
	ctx, cancel := context.WithCancel(req.Context())
	select {
	case <-t.serving:
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
	a := newLocalAnswer(cancel)
	body := req.Body
	if body == nil {
		body = http.NoBody
	} else {
		// The handler may read it after the answer's head, and req's is closed by then.
		raw, err := io.ReadAll(body)
		if err != nil {
			cancel()
			return nil, fmt.Errorf("read the request: %w", err)
		}
		body = io.NopCloser(bytes.NewReader(raw))
	}
	// A handler that waits for its reader must see that there is none any more.
	context.AfterFunc(ctx, func() { a.stop(ctx.Err()) })
	go a.run(t.handler, asReceived(ctx, req, body))
	select {
	case <-a.started:
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
	return a.response(req)
}

// asReceived is the request as a server sees it.
func asReceived(ctx context.Context, req *http.Request, body io.ReadCloser) *http.Request {
	in := req.Clone(ctx)
	in.URL = &url.URL{Path: req.URL.Path, RawPath: req.URL.RawPath, RawQuery: req.URL.RawQuery}
	in.RequestURI = in.URL.RequestURI()
	in.Host, in.RemoteAddr, in.Body = req.URL.Host, localAddress, body
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/2.0", 2, 0
	return in
}

// errAborted is what a client reads whose handler gave up.
var errAborted = errors.New("the server ended the answer early")

// localAnswer is the handler's writer and the client's body.
type localAnswer struct {
	header  http.Header
	cancel  context.CancelFunc
	started chan struct{} // closed with the head

	mu     sync.Mutex // guards the following
	change *sync.Cond
	code   int // 0: no head yet
	sent   http.Header
	buffer bytes.Buffer
	end    error // io.EOF when the handler has ended
	closed error // why the client reads no more; nil while it does
}

func newLocalAnswer(cancel context.CancelFunc) *localAnswer {
	a := &localAnswer{header: http.Header{}, cancel: cancel, started: make(chan struct{})}
	a.change = sync.NewCond(&a.mu)
	return a
}

func (a *localAnswer) run(handler http.Handler, req *http.Request) {
	end := errAborted
	defer func() {
		// As net/http's server does: a panic ends the answer and nothing else. The
		// library has logged it, but for http.ErrAbortHandler, which says no more.
		_ = recover()
		a.mu.Lock()
		if end == io.EOF {
			a.head(http.StatusOK)
		}
		a.end = end
		if a.code == 0 {
			a.code = -1
			close(a.started)
		}
		a.change.Broadcast()
		a.mu.Unlock()
	}()
	handler.ServeHTTP(a, req)
	end = io.EOF
}

// response is the head, once started is closed.
func (a *localAnswer) response(req *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.code < 0 {
		a.cancel()
		return nil, errAborted
	}
	return &http.Response{
		Status: http.StatusText(a.code), StatusCode: a.code, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: a.sent, Body: a, ContentLength: -1, Request: req,
	}, nil
}

// head fixes code and header; mu is held.
func (a *localAnswer) head(code int) {
	if a.code == 0 {
		a.code, a.sent = code, a.header.Clone()
		close(a.started)
	}
}

// Header implements http.ResponseWriter.
func (a *localAnswer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *localAnswer) WriteHeader(code int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head(code)
}

// Write implements http.ResponseWriter. It waits while the client has enough to read.
func (a *localAnswer) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head(http.StatusOK)
	for a.buffer.Len() > localBuffer && a.closed == nil {
		a.change.Wait()
	}
	if a.closed != nil {
		return 0, a.closed
	}
	n, err := a.buffer.Write(p)
	a.change.Broadcast()
	return n, err
}

// Flush implements http.Flusher.
func (a *localAnswer) Flush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head(http.StatusOK)
}

// CloseNotify tells the library that this is no connection that can be upgraded; the
// request's context tells the end.
func (a *localAnswer) CloseNotify() <-chan bool { return nil }

// Read implements io.Reader for the client.
func (a *localAnswer) Read(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.buffer.Len() == 0 && a.end == nil && a.closed == nil {
		a.change.Wait()
	}
	switch {
	case a.closed != nil:
		return 0, a.closed
	case a.buffer.Len() == 0:
		return 0, a.end
	}
	n, err := a.buffer.Read(p)
	a.change.Broadcast()
	return n, err
}

// Close implements io.Closer for the client, and ends the handler's context.
func (a *localAnswer) Close() error {
	a.stop(io.ErrClosedPipe)
	a.cancel()
	return nil
}

// stop ends reading and writing; the first reason stays.
func (a *localAnswer) stop(reason error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed == nil {
		a.closed = reason
	}
	a.change.Broadcast()
}
