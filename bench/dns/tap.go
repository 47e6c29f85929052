package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/apiserver"
)

// tap stands between the API and the DNS servers, as an HTTP/2 proxy, and knows when an
// event is about to reach them. A watch of the benchmark's own would not: the API sends
// to its watchers one after the other, and on a busy machine one may wait for the other.
type tap struct {
	kubeconfig string // for those who are to reach the API through it

	server *http.Server
	ended  chan struct{}

	mu      sync.Mutex // guards the following
	name    []byte     // in the event that is waited for; none: for nothing
	then    func()     // is called before the event is handed on
	arrived chan time.Time
}

func startTap(dir string, access apiclient.Access) (*tap, error) {
	ca, err := apiserver.NewAuthority(dir)
	if err != nil {
		return nil, err
	}
	if err := ca.Issue("tap", "tap"); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(access.Cert, access.Key)
	if err != nil {
		return nil, fmt.Errorf("use the administrator's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(access.CA)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the DNS servers: %w", err)
	}
	t := &tap{kubeconfig: filepath.Join(dir, "tap.conf"), ended: make(chan struct{})}
	api := &url.URL{Scheme: "https", Host: access.Address}
	t.server = &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(api)
			r.Out.Header.Del("Accept-Encoding") // names are to be seen
		},
		FlushInterval: -1, // at once
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{pair}},
			ForceAttemptHTTP2: true, DisableCompression: true,
		},
		ModifyResponse: t.listenToWatch,
	}}
	config := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"tap","contexts":[{"name":"tap","context":{"cluster":"tap","user":"tap"}}],
		"clusters":[{"name":"tap","cluster":{"server":"https://%s","certificate-authority":%q}}],"users":[{"name":"tap","user":{}}]}`,
		listener.Addr(), ca.Path("ca.crt"))
	if err := os.WriteFile(t.kubeconfig, []byte(config), 0o600); err != nil {
		listener.Close()
		return nil, fmt.Errorf("write the DNS servers' kubeconfig: %w", err)
	}
	go func() {
		defer close(t.ended)
		_ = t.server.ServeTLS(listener, ca.Path("tap.crt"), ca.Path("tap.key")) // it ends by Close
	}()
	return t, nil
}

// Close ends all connections.
func (t *tap) Close() {
	t.server.Close()
	<-t.ended
}

// expect gives the time at which an event with the name arrives. then is called before it is
// handed on.
func (t *tap) expect(name string, then func()) <-chan time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.name, t.then, t.arrived = []byte(name), then, make(chan time.Time, 1)
	return t.arrived
}

func (t *tap) listenToWatch(r *http.Response) error {
	if r.Request.URL.Query().Has("watch") {
		r.Body = &tapped{ReadCloser: r.Body, tap: t}
	}
	return nil
}

// tapped is a watch's answer.
type tapped struct {
	io.ReadCloser
	tap  *tap
	tail []byte // of what was read, for names in two pieces
}

const longestName = 63 // of a Service

func (b *tapped) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.tail = append(b.tail, p[:n]...)
	b.tap.saw(b.tail)
	b.tail = append(b.tail[:0], b.tail[max(0, len(b.tail)-longestName):]...)
	return n, err
}

func (t *tap) saw(data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.name) > 0 && bytes.Contains(data, t.name) {
		t.then()
		t.arrived <- time.Now()
		t.name = nil
	}
}

// errNoEvent says that the API didn't tell the server of a new Service.
var errNoEvent = errors.New("no watch event came")

// await waits for what was expected.
func (t *tap) await(ctx context.Context, arrived <-chan time.Time) (time.Time, error) {
	select {
	case at := <-arrived:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, context.Cause(ctx)
	case <-time.After(startPatience):
		return time.Time{}, errNoEvent
	}
}
