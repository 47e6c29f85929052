package apiserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// A connection knows how many watches it carries, and carries them whole.
func TestWatchesAreCountedForTheirConnection(t *testing.T) {
	watching, end := make(chan *bundledConn), make(chan struct{})
	counted := withBundledWatches(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn := bundledConnOf(req.Context())
		if req.URL.Path == "/watch" {
			watching <- conn
			<-end
		}
		fmt.Fprint(w, req.URL.Path)
	}), false)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		verb := "get"
		if req.URL.Path == "/watch" {
			verb = "watch"
		}
		counted.ServeHTTP(w, req.WithContext(apirequest.WithRequestInfo(req.Context(), &apirequest.RequestInfo{Verb: verb})))
	})}
	server.Protocols = new(http.Protocols)
	server.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(newBundling(listener)) // Close ends it
	}()
	defer func() {
		server.Close()
		<-ended
	}()
	transport := &http.Transport{Protocols: server.Protocols}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	get := func(path string) string {
		resp, err := client.Get("http://" + listener.Addr().String() + path)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return string(body)
	}
	if got := get("/get"); got != "/get" {
		t.Fatal(got)
	}
	answers := make(chan string)
	var conn *bundledConn
	for n := range int32(3) {
		go func() { answers <- get("/watch") }()
		conn = <-watching
		if got := conn.watches.Load(); got != n+1 {
			t.Errorf("%d watches, want %d", got, n+1)
		}
	}
	if got := get("/get"); got != "/get" || conn.watches.Load() != 3 {
		t.Errorf("beside watches: %q, %d watches", got, conn.watches.Load())
	}
	close(end)
	for range 3 {
		if got := <-answers; got != "/watch" {
			t.Error(got)
		}
	}
	if got := conn.watches.Load(); got != 0 {
		t.Errorf("%d watches are left", got)
	}
	// Requests of this process have no connection.
	if bundledConnOf(context.Background()) != nil {
		t.Error("a connection from nowhere")
	}
}

// pipeConn is a connection whose other end reads when the test does.
func pipeConn(t *testing.T, watches int32) (*bundledConn, net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	c := newBundling(nil).wrap(near)
	c.watches.Store(watches)
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, far
}

// What several watches write comes in its order and whole; writers don't wait for the
// client before much waits, and what was acknowledged before an end is sent before it.
func TestBundledWritesArriveWholeAndInOrder(t *testing.T) {
	c, far := pipeConn(t, 2)
	var want bytes.Buffer
	for n := range 100 {
		line := fmt.Appendf(nil, "event %d\n", n)
		want.Write(line)
		if _, err := c.Write(line); err != nil { // a pipe has no room: this doesn't wait for its reader
			t.Fatal(err)
		}
	}
	c.watches.Store(0) // what comes next must not overtake what waits
	ended := make(chan error)
	go func() {
		_, err := c.Write([]byte("the end\n"))
		// TLS ends so: its last words, a deadline that is over, and Close.
		_ = c.SetWriteDeadline(time.Now())
		_ = c.Close()
		ended <- err
	}()
	want.WriteString("the end\n")
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A client that doesn't read stops its writers, and holds up neither the end of the
// connection nor those that wait to write.
func TestBundledWritesWaitForTheirReader(t *testing.T) {
	c, far := pipeConn(t, 2)
	block := make([]byte, mostWaiting)
	written := make(chan error)
	go func() {
		for {
			_, err := c.Write(block)
			written <- err
			if err != nil {
				return
			}
		}
	}()
	// One is on its way, one waits; the third may wait already or has none before it.
	for range 2 {
		if err := <-written; err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	if err := c.SetWriteDeadline(begin); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 10*drainPatience {
		t.Errorf("the end took %v", took)
	}
	for err := range written {
		if err != nil {
			break
		}
	}
	far.Close()
}

// What a party of watches writes goes out when all have arrived; who doesn't come isn't
// waited for, and is missed by nobody later.
func TestBundledWritesWaitForExpectedWatches(t *testing.T) {
	c, far := pipeConn(t, 3)
	read := make(chan string)
	go func() {
		defer close(read)
		buf := make([]byte, 100)
		for {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			read <- string(buf[:n])
		}
	}()
	write := func(s string) {
		t.Helper()
		if _, err := c.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 10 {
		party := c.expect(2)
		write(fmt.Sprint("a", n, " "))
		c.arrived(party)
		write(fmt.Sprint("b", n))
		var writer sync.WaitGroup
		writer.Go(func() { c.arrived(party) }) // it writes, and a pipe has no room
		// On a very busy machine the first may have been sent for the time it waited.
		got := <-read
		if want := fmt.Sprintf("a%d b%d", n, n); got != want && got+<-read != want {
			t.Errorf("got %q, want %q", got, want)
		}
		writer.Wait()
	}
	party := c.expect(3)
	write("two")
	c.arrived(party)
	c.arrived(party)
	if got := <-read; got != "two" {
		t.Errorf("got %q", got)
	}
	next := c.expect(1)
	if next == party {
		t.Error("the party goes on")
	}
	c.arrived(party) // the third, too late
	if got := expectedBy(c); got != 1 {
		t.Errorf("%d are expected", got)
	}
	write("one")
	go c.arrived(next)
	if got := <-read; got != "one" {
		t.Errorf("got %q", got)
	}
	// What waits for somebody is sent before an end.
	c.expect(1)
	write("end")
	ended := make(chan error)
	go func() { ended <- c.SetWriteDeadline(time.Now()) }()
	if got := <-read; got != "end" {
		t.Errorf("got %q", got)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	far.Close()
	for range read {
	}
}
