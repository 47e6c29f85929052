package apiserver

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// keepAlive is how often a silent client is asked whether it still is there: what the
// library sets on the connections that it knows.
const keepAlive = 3 * time.Minute

// bundling makes the events that several watches of one connection are about to send go
// out together. HTTP/2 sends what waits in one piece, but the first watch to be woken finds
// nothing that waits: each event would be a TLS record and a system call of its own, and
// as many reads for the client.
type bundling struct{ net.Listener }

// Accept implements net.Listener.
func (l bundling) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlivePeriod(keepAlive) // it only fails where the connection is gone
	}
	return &bundledConn{Conn: conn}, nil
}

// bundledConn is a connection that knows how many watches it carries.
type bundledConn struct {
	net.Conn
	watches atomic.Int32
}

// Write implements net.Conn. Where there are several watches it lets the goroutines run
// that are ready to: those of the other watches queue their events meanwhile. No time is
// waited for, and nothing is held back when nobody else is ready.
func (c *bundledConn) Write(p []byte) (int, error) {
	if c.watches.Load() > 1 {
		runtime.Gosched()
	}
	return c.Conn.Write(p)
}

// LocalAddr implements net.Conn. net/http hands it to the handlers of the requests.
func (c *bundledConn) LocalAddr() net.Addr { return bundledAddr{c.Conn.LocalAddr(), c} }

type bundledAddr struct {
	net.Addr
	conn *bundledConn
}

func bundledConnOf(ctx context.Context) *bundledConn {
	addr, _ := ctx.Value(http.LocalAddrContextKey).(bundledAddr)
	return addr.conn
}

// withBundledWatches counts the watches of each connection.
func withBundledWatches(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn := bundledConnOf(req.Context())
		info, ok := apirequest.RequestInfoFrom(req.Context())
		if conn != nil && ok && info.Verb == "watch" {
			conn.watches.Add(1)
			defer conn.watches.Add(-1)
		}
		next.ServeHTTP(w, req)
	})
}
