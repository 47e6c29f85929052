package apiserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// localClient calls handler without a network.
func localClient(handler http.Handler) *http.Client {
	t := newLocalTransport()
	t.serve(handler)
	return &http.Client{Transport: t}
}

// The handler sees what it would see behind a listener, and its answer arrives whole.
func TestLocalTransportCarriesRequestAndAnswer(t *testing.T) {
	client := localClient(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("X-Seen", req.Method+" "+req.RequestURI+" "+req.Host+" "+string(body))
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X-Late", "comes after the head")
		fmt.Fprint(w, strings.Repeat("x", 3*localBuffer))
	}))
	resp, err := client.Post("https://localhost:1/a%2Fb/c?d=e", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || len(body) != 3*localBuffer {
		t.Errorf("the body has %d bytes, and %v", len(body), err)
	}
	if got, want := resp.Header.Get("X-Seen"), "POST /a%2Fb/c?d=e localhost:1 hello"; got != want || resp.StatusCode != http.StatusTeapot {
		t.Errorf("got %d %q, want %q", resp.StatusCode, got, want)
	}
	if resp.Header.Get("X-Late") != "" {
		t.Error("a header that was set after the head was sent")
	}
}

// What is flushed arrives before the handler ends, and closing the body ends the handler.
func TestLocalTransportStreams(t *testing.T) {
	ended := make(chan struct{})
	client := localClient(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer close(ended)
		fmt.Fprintln(w, "first")
		w.(http.Flusher).Flush()
		<-req.Context().Done()
	}))
	resp, err := client.Get("https://localhost/watch")
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "first\n" {
		t.Errorf("read %q, %v", line, err)
	}
	resp.Body.Close()
	<-ended
}

// A client that goes away frees a handler that waits for it to read.
func TestLocalTransportFreesWritersOfGoneClients(t *testing.T) {
	ended := make(chan error)
	client := localClient(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, localBuffer)
		for {
			if _, err := w.Write(chunk); err != nil {
				ended <- err
				return
			}
		}
	}))
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://localhost/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the writer was told %v", err)
	}
}

// A handler that panics ends its answer, not the process; before the head there is none.
func TestLocalTransportSurvivesPanics(t *testing.T) {
	client := localClient(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/late" {
			w.WriteHeader(http.StatusOK)
		}
		panic(http.ErrAbortHandler)
	}))
	if resp, err := client.Get("https://localhost/early"); !errors.Is(err, errAborted) {
		t.Errorf("got %v, %v", resp, err)
	}
	resp, err := client.Get("https://localhost/late")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, errAborted) {
		t.Errorf("read to the end with %v", err)
	}
}

// Before the server runs, requests wait as they would in a listener's queue.
func TestLocalTransportWaitsForTheServer(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://localhost/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newLocalTransport().RoundTrip(req); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
