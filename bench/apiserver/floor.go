package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"portico.dev/portico/bench/apiclient"
	"portico.dev/portico/bench/process"
)

// floorObject is a Service as both servers send it; each answer has as many bytes.
const floorObject = `{"kind":"Service","apiVersion":"v1","metadata":{"name":"svc-00000","namespace":"default","uid":"0d6d4d59-28b3-4e6c-b6c4-7c33b4bba81e",` +
	`"resourceVersion":"10000","creationTimestamp":"2026-01-01T00:00:00Z","labels":{"app":"web"},"managedFields":[{"manager":"portico-bench","operation":"Update",` +
	`"apiVersion":"v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:app":{}}},"f:spec":{"f:internalTrafficPolicy":{},` +
	`"f:ports":{".":{},"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:name":{},"f:port":{},"f:protocol":{},"f:targetPort":{}}},"f:selector":{},"f:sessionAffinity":{},"f:type":{}}}}]},` +
	`"spec":{"ports":[{"name":"http","protocol":"TCP","port":80,"targetPort":8080}],"selector":{"app":"svc-00000"},"clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"],` +
	`"type":"ClusterIP","sessionAffinity":"None","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster"},"status":{"loadBalancer":{}}}` + "\n"

// StartFloor runs a server that only answers: net/http, as the real ones use it, with the
// same kind of certificates, and nothing behind it. What it needs, nobody can save. The
// command is a program that calls ServeFloor with two more arguments: folder and address.
func StartFloor(ctx context.Context, dir, cpus string, command ...string) (*Server, error) {
	ca, err := NewAuthority(dir)
	if err != nil {
		return nil, err
	}
	for name, groups := range map[string][]string{"floor": nil, "admin": {"system:masters"}} {
		if err := ca.Issue(name, name, groups...); err != nil {
			return nil, err
		}
	}
	ports, err := process.FreePorts(1)
	if err != nil {
		return nil, err
	}
	address := "127.0.0.1:" + ports[0]
	s := &Server{cpus: cpus}
	if s.Access, err = ca.access(address, "admin"); err != nil {
		return nil, err
	}
	if _, err := s.launch(dir, append(command, dir, address)...); err != nil {
		return nil, err
	}
	if err := s.Wait(ctx, func(ctx context.Context) error { return apiclient.IsReady(ctx, s.Access) }); err != nil {
		s.Stop()
		return nil, err
	}
	s.Access.Token = "any" // as many clients send one as do to the others
	return s, nil
}

// ServeFloor is that server. It knows nobody, and nothing but one object.
func ServeFloor(ctx context.Context, dir, address string) error {
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "floor.crt"), filepath.Join(dir, "floor.key"))
	if err != nil {
		return fmt.Errorf("use the certificate: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:   &floor{watchers: map[chan []byte]bool{}},
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13},
		ErrorLog:  log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 250},
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

type floor struct {
	mu       sync.Mutex
	watchers map[chan []byte]bool // guarded by mu
}

// ServeHTTP implements http.Handler.
func (f *floor) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	_, _ = io.Copy(io.Discard, req.Body) // else the client is told to send no more
	w.Header().Set("Content-Type", "application/json")
	switch {
	case req.URL.Query().Has("watch"):
		f.watch(w, req)
		return
	case req.Method == http.MethodPatch:
		f.send([]byte(`{"type":"MODIFIED","object":` + strings.TrimSuffix(floorObject, "\n") + "}\n"))
	case req.Method == http.MethodPost:
		w.WriteHeader(http.StatusCreated)
	}
	_, _ = io.WriteString(w, floorObject) // a client that is gone needs no answer
}

func (f *floor) send(event []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		w <- event
	}
}

func (f *floor) watch(w http.ResponseWriter, req *http.Request) {
	events := make(chan []byte, 64) // more than are under way at any time
	f.mu.Lock()
	f.watchers[events] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, events)
	}()
	flusher := w.(http.Flusher)
	flusher.Flush()
	for {
		select {
		case event := <-events:
			if _, err := w.Write(event); err != nil {
				return
			}
			flusher.Flush()
		case <-req.Context().Done():
			return
		}
	}
}
