package door

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Protocol is the name of the console's stream in the Upgrade header.
const Protocol = "portico-console"

// Source is what the door opens to.
type Source interface {
	// Healthy gives the reason when the node doesn't do its work.
	Healthy() error
	// Pods are those that the node knows of.
	Pods() []corev1.Pod
	// Console opens a session at an instance's serial console. ErrNoInstance
	// says that the node has none of that name.
	Console(ctx context.Context, namespace, instance string) (io.ReadWriteCloser, error)
}

// ErrNoInstance says that this node runs no such instance.
var ErrNoInstance = errors.New("this node runs no such instance")

// Config is what a Server needs.
type Config struct {
	// TLS must demand and verify client certificates.
	TLS *tls.Config
	// Allow decides by the client's verified certificate. All users of a
	// cluster may have certificates of one authority, so that being verified is
	// not enough.
	Allow  func(*x509.Certificate) bool
	Source Source
	Log    *slog.Logger
}

// AllowNames accepts clients by the common name of their certificate.
func AllowNames(names ...string) func(*x509.Certificate) bool {
	return func(c *x509.Certificate) bool {
		for _, n := range names {
			if c.Subject.CommonName == n {
				return true
			}
		}
		return false
	}
}

// Server is the door.
type Server struct {
	cfg     Config
	streams sync.WaitGroup
}

// New checks the configuration: a door without a lock is refused.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.TLS == nil || cfg.TLS.ClientAuth != tls.RequireAndVerifyClientCert || cfg.TLS.ClientCAs == nil:
		return nil, errors.New("the node's door must verify its clients' certificates")
	case cfg.Allow == nil || cfg.Source == nil || cfg.Log == nil:
		return nil, errors.New("the node's door needs Allow, Source and Log")
	}
	cfg.TLS = cfg.TLS.Clone()
	// HTTP/2 has no Upgrade.
	cfg.TLS.NextProtos = []string{"http/1.1"}
	return &Server{cfg: cfg}, nil
}

// Serve answers on l until the context ends, and closes all streams then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /console/{namespace}/{instance}", func(w http.ResponseWriter, r *http.Request) {
		s.console(ctx, w, r)
	})
	h := &http.Server{
		Handler:           s.guard(mux),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug), // failed handshakes
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	stop := context.AfterFunc(ctx, func() { h.Close() })
	defer stop()
	err := h.Serve(tls.NewListener(l, s.cfg.TLS))
	s.streams.Wait() // hijacked connections end with the context
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("the node's door at %s: %w", l.Addr(), err)
}

func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || !s.cfg.Allow(r.TLS.PeerCertificates[0]) {
			http.Error(w, "this client certificate doesn't open the node's door", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Source.Healthy(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok")
}

func (s *Server) pods(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(corev1.PodList{ // a client that has gone wants no answer
		TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"},
		Items:    s.cfg.Source.Pods(),
	})
}

// console's context is the server's: a request's own ends with the hijack.
func (s *Server) console(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != Protocol {
		w.Header().Set("Upgrade", Protocol)
		http.Error(w, "a console needs the header Upgrade: "+Protocol, http.StatusUpgradeRequired)
		return
	}
	tty, err := s.cfg.Source.Console(r.Context(), r.PathValue("namespace"), r.PathValue("instance"))
	if err != nil {
		code := http.StatusConflict
		if errors.Is(err, ErrNoInstance) {
			code = http.StatusNotFound
		}
		http.Error(w, err.Error(), code)
		return
	}
	defer tty.Close()
	s.streams.Add(1)
	defer s.streams.Done()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+Protocol+"\r\n\r\n")
	if err != nil {
		return
	}
	join(ctx, conn, buffered, tty)
}

// join copies both ways until either side or the context ends.
func join(ctx context.Context, conn net.Conn, in io.Reader, tty io.ReadWriteCloser) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(tty, in) // its error is the end, too
		tty.Close()
	})
	both.Go(func() {
		_, _ = io.Copy(conn, tty)
		conn.Close()
	})
	both.Wait()
}
