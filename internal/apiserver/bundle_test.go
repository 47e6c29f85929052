package apiserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
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
	}))
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
		_ = server.Serve(bundling{listener}) // Close ends it
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
