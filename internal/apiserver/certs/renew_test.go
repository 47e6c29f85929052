package certs_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	genericapiserver "k8s.io/apiserver/pkg/server"

	"portico.dev/portico/internal/apiserver/certs"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// clock is one that a test sets.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

// OPS-05: both ends of mutual TLS go on past the end of their first certificates: every
// handshake finds good ones, and a connection from before goes on.
func TestLeavesRenew(t *testing.T) {
	t.Parallel()
	c := &clock{}
	c.nanos.Store(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC).UnixNano())
	authority, err := certs.Open(t.TempDir(), c.now)
	if err != nil {
		t.Fatal(err)
	}
	server, err := authority.ServerLeaf("server", nil, []netip.Addr{loopback})
	if err != nil {
		t.Fatal(err)
	}
	client, err := authority.ClientLeaf("client")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		GetCertificate: server.GetCertificate, ClientCAs: authority.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS13, Time: c.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	defer served.Wait()
	defer l.Close()
	dial := func() *tls.Conn {
		t.Helper()
		conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
			GetClientCertificate: client.GetClientCertificate, RootCAs: authority.Pool(), MinVersion: tls.VersionTLS13, Time: c.now,
		})
		if err != nil {
			t.Fatalf("on %s: %v", c.now().Format(time.DateOnly), err)
		}
		return conn
	}
	says := func(conn *tls.Conn) {
		t.Helper()
		buf := make([]byte, 2)
		if _, err := conn.Write([]byte("ok")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, buf); err != nil { // only now a refused client certificate shows (RFC 8446, 4.4.4)
			t.Fatalf("on %s: %v", c.now().Format(time.DateOnly), err)
		}
	}
	first := dial()
	defer first.Close()
	says(first)
	ends := first.ConnectionState().PeerCertificates[0].NotAfter
	serials := map[string]bool{}
	for c.now().Before(ends.Add(2 * certs.LeafLife)) {
		c.advance(30 * 24 * time.Hour)
		conn := dial()
		says(conn)
		serials[conn.ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
		conn.Close()
	}
	says(first)
	if n := len(serials); n < 3 || n > 6 { // three years, a certificate each eight or nine months
		t.Errorf("%d certificates in three years", n)
	}
}

// listener counts what the library would do.
type listener struct{ told atomic.Int32 }

func (l *listener) Enqueue() { l.told.Add(1) }

// NET-04: the host's addresses come and go; those that were given stay.
func TestServingFollowsTheHost(t *testing.T) {
	t.Parallel()
	authority, err := certs.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s, err := certs.NewServing(authority, []string{"localhost"}, []netip.Addr{loopback})
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{}
	s.AddListener(l)
	good := func(want string, told int32) {
		t.Helper()
		pair, err := tls.X509KeyPair(s.CurrentCertKeyContent())
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, ip := range pair.Leaf.IPAddresses {
			got += ip.String() + " "
		}
		if got != want || l.told.Load() != told {
			t.Errorf("good for %q, told %d times; want %q, %d", got, l.told.Load(), want, told)
		}
	}
	follow := func(texts ...string) {
		t.Helper()
		var addrs []netip.Addr
		for _, s := range texts {
			addrs = append(addrs, netip.MustParseAddr(s))
		}
		if err := s.FollowHost(addrs...); err != nil {
			t.Fatal(err)
		}
	}
	good("127.0.0.1 ", 0)
	follow("192.0.2.1")
	good("127.0.0.1 192.0.2.1 ", 1)
	follow("192.0.2.1", "127.0.0.1")
	good("127.0.0.1 192.0.2.1 ", 1) // nothing new
	follow("192.0.2.2", "2001:db8::2")
	good("127.0.0.1 192.0.2.2 2001:db8::2 ", 2)
	follow()
	good("127.0.0.1 ", 3)
}

// OPS-05: the API server's own library takes a renewed certificate over while requests
// run: none fails, before and after the end of the first certificate.
func TestServingRenewsUnderRequests(t *testing.T) {
	t.Parallel()
	// A renewal comes at two thirds: its third is what a machine may stand still for.
	const life = 15 * time.Second
	authority, err := certs.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	serving, err := certs.NewServing(authority.WithLeafLife(life), nil, []netip.Addr{loopback})
	if err != nil {
		t.Fatal(err)
	}
	at := serve(t, serving)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	serials := map[string]time.Time{}
	kept := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}}} //nolint:gosec // for tests
	defer kept.CloseIdleConnections()
	ask := func(client *http.Client) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+at, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatalf("after %v: %v", time.Since(begin), err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		return res
	}
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	for time.Since(begin) < life+time.Second || len(serials) < 2 {
		<-pace.C
		ask(kept)
		fresh := &http.Client{Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}, //nolint:gosec // for tests
		}}
		cert := ask(fresh).TLS.PeerCertificates[0]
		serials[cert.SerialNumber.String()] = cert.NotAfter
	}
}

// serve answers on loopback until the test ends, as the API server does.
func serve(t *testing.T, serving *certs.Serving) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	info := &genericapiserver.SecureServingInfo{Listener: l, Cert: serving}
	stop := make(chan struct{})
	ended, _, err := info.Serve(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }), time.Second, stop)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	return l.Addr().String()
}
