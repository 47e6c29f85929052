package apiserver

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// keepAlive is how often a silent client is asked whether it still is there: what the
// library sets on the connections that it knows.
const keepAlive = 3 * time.Minute

// mostWaiting is how much may wait to be written before writers do: some TLS records, of
// which HTTP/2 makes one for each 4 KB.
const mostWaiting = 64 << 10

// expectPatience is how long what is written may wait for watches that were woken to write.
// They are there in a tenth of it, unless processors are busy. Of one that can't write,
// the others wait for one event only.
const expectPatience = time.Millisecond

// drainPatience is how long a client may take to receive what waits when its connection
// ends.
const drainPatience = time.Second

// bundling makes the events that several watches of one connection are about to send go
// out together. HTTP/2 sends what waits in one piece, but the first watch to be woken finds
// nothing that waits: each event would be a TLS record and a system call of its own, and
// as many reads for the client.
type bundling struct {
	net.Listener
	buffers *sync.Pool // of *bytes.Buffer
}

func newBundling(l net.Listener) bundling {
	return bundling{l, &sync.Pool{New: func() any { return &bytes.Buffer{} }}}
}

// Accept implements net.Listener.
func (l bundling) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAlivePeriod(keepAlive) // it only fails where the connection is gone
	}
	return l.wrap(conn), nil
}

func (l bundling) wrap(conn net.Conn) *bundledConn {
	c := &bundledConn{Conn: conn, buffers: l.buffers, party: 1}
	c.changed = sync.NewCond(&c.mu)
	return c
}

// bundledConn is a connection that knows how many watches it carries. Where several are
// known to write soon, what is written waits for the last of them, and a short time at most.
// Where there are several of which nobody knows, it waits for a goroutine that first lets
// those run that are ready to. All that waits is written at once.
type bundledConn struct {
	net.Conn
	watches atomic.Int32
	buffers *sync.Pool

	mu       sync.Mutex // guards the following
	changed  *sync.Cond // there is room, or writing has ended
	waiting  *bytes.Buffer
	writing  bool        // somebody is at it, or a goroutine soon will be
	broken   error       // of a write that was acknowledged before it was done
	expected int         // watches of this party that were woken to write
	party    uint64      // never 0
	late     *time.Timer // writes what waits for watches that don't come
}

// expect makes what is written wait until n more watches of a party have arrived.
func (c *bundledConn) expect(n int) (party uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expected += n
	if c.late == nil {
		c.late = time.AfterFunc(expectPatience, c.writeLate)
	}
	return c.party
}

// arrived tells that an expected watch has written, or won't. The last one writes what
// waits.
func (c *bundledConn) arrived(party uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if party != c.party {
		return // too late
	}
	if c.expected--; c.expected == 0 {
		c.late.Stop()
		c.writeWaiting()
	}
}

// writeLate ends a party of which some don't come: they have to wait themselves, for their
// client to take what was sent before.
func (c *bundledConn) writeLate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expected = 0
	c.party++
	c.writeWaiting()
}

// Write implements net.Conn.
func (c *bundledConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	if !c.writing && c.broken == nil && c.waiting == nil && c.expected == 0 && c.watches.Load() < 2 {
		c.mu.Unlock()
		return c.Conn.Write(p) // TLS writes one after the other: none comes between
	}
	defer c.mu.Unlock()
	for c.broken == nil && c.waiting != nil && c.waiting.Len() >= mostWaiting {
		c.changed.Wait()
	}
	if c.broken != nil {
		return 0, c.broken
	}
	if c.waiting == nil {
		c.waiting = c.buffers.Get().(*bytes.Buffer)
		if c.expected > 0 {
			c.late.Reset(expectPatience)
		}
	}
	c.waiting.Write(p)
	if !c.writing && (c.expected == 0 || c.waiting.Len() >= mostWaiting) {
		c.writing = true
		go c.writeSoon() // ends with what waits, or with the connection
	}
	return len(p), nil
}

func (c *bundledConn) writeSoon() {
	runtime.Gosched()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	c.writeWaiting()
}

// writeWaiting writes until nothing waits, unless somebody else does; mu is held, but not
// meanwhile.
func (c *bundledConn) writeWaiting() {
	if c.writing {
		return
	}
	c.writing = true
	for c.waiting != nil && c.broken == nil {
		out := c.waiting
		c.waiting = nil
		c.changed.Broadcast() // there is room again
		c.mu.Unlock()
		_, err := c.Conn.Write(out.Bytes())
		out.Reset()
		c.buffers.Put(out)
		c.mu.Lock()
		c.broken = err
	}
	c.writing = false
	c.changed.Broadcast()
}

// drain waits until nothing waits any more, for a short time.
func (c *bundledConn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing || c.waiting != nil {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(drainPatience)) // it only fails where the connection is gone
	}
	c.writeWaiting()
	for c.writing {
		c.changed.Wait()
	}
}

// SetWriteDeadline implements net.Conn. TLS ends a connection by one that is over, behind
// its last words.
func (c *bundledConn) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		c.drain()
	}
	return c.Conn.SetWriteDeadline(t)
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

type bareWriterKey struct{}

// keepBareWriter remembers the writer that the chain of handlers begins with.
func keepBareWriter(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.RawQuery, "watch=") {
			req = req.WithContext(context.WithValue(req.Context(), bareWriterKey{}, w))
		}
		next.ServeHTTP(w, req)
	})
}

// withBundledWatches counts the watches of each connection, and lets them write past the
// chain, where each layer would look at each event: they log and trace requests, which is
// off. Where there is an audit log, its layer must see the answer's begin and end.
func withBundledWatches(next http.Handler, audited bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		info, ok := apirequest.RequestInfoFrom(req.Context())
		if !ok || info.Verb != "watch" {
			next.ServeHTTP(w, req)
			return
		}
		if conn := bundledConnOf(req.Context()); conn != nil {
			conn.watches.Add(1)
			defer conn.watches.Add(-1)
		}
		if bare, ok := req.Context().Value(bareWriterKey{}).(http.ResponseWriter); ok && !audited {
			w = bare
		}
		next.ServeHTTP(w, req)
	})
}
