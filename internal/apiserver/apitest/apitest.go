// Package apitest starts a real API server, with its store in a temporary folder,
// for tests of whatever talks to one.
package apitest

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/etcd"
)

// readyTimeout is generous: with the race detector on two busy cores a start takes
// several seconds.
const readyTimeout = time.Minute

// Server is a running API server.
type Server struct {
	Config    *rest.Config // as system:masters
	Kube      kubernetes.Interface
	Dir       string // its data directory
	Store     etcd.Source
	Claims    *claims.Ledger // as the store has them
	Authority *certs.Authority
	Local     *rest.Config                        // as Config, without a network
	Held      func(runtime.Object) runtime.Object // what its watch caches hold
	PlainGets func() uint64                       // how many it has answered without its store
	// PlainWatches is how many watches share one of the watch cache.
	PlainWatches func() uint64
	stop         func()
}

// Stop ends the server; a test's end does it too.
func (s *Server) Stop() { s.stop() }

// Start runs a dual-stack server until the test ends.
func Start(t testing.TB, change ...func(*apiserver.Config)) *Server {
	t.Helper()
	return StartIn(t, t.TempDir(), change...)
}

// StartIn runs a server on the data that dir holds.
func StartIn(t testing.TB, dir string, change ...func(*apiserver.Config)) *Server {
	t.Helper()
	store, err := etcd.StartEmbedded(context.Background(), dir+"/etcd", logger(t))
	if err != nil {
		t.Fatal(err)
	}
	return start(t, dir, store, store.Close, change...)
}

// StartOn runs one more server on the store that another has opened.
func StartOn(t testing.TB, other *Server, change ...func(*apiserver.Config)) *Server {
	t.Helper()
	return start(t, other.Dir, other.Store, func() {}, change...)
}

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
}

// Config is a dual-stack server's on the store, with its keys in dir.
func Config(store etcd.Source, dir string, logger *slog.Logger) (apiserver.Config, error) {
	authority, err := certs.Open(dir+"/pki", time.Now)
	if err != nil {
		return apiserver.Config{}, err
	}
	serving, err := certs.NewServing(authority, []string{"localhost"}, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil {
		return apiserver.Config{}, err
	}
	key, err := certs.OpenSigningKey(dir + "/pki")
	if err != nil {
		return apiserver.Config{}, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return apiserver.Config{}, err
	}
	return apiserver.Config{
		Store: store, Authority: authority, Serving: serving, SigningKey: key, Listener: listener,
		ServiceCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112")},
		GuestCIDRs:    []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd00:10:245::/64")},
		NodePortFirst: 30000, NodePortLast: 32767, ClusterDomain: "cluster.local", Logger: logger, Version: "test",
	}, nil
}

func start(t testing.TB, dir string, store etcd.Source, closeStore func(), change ...func(*apiserver.Config)) *Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	config, err := Config(store, dir, logger(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&config)
	}
	server, err := apiserver.New(ctx, config)
	if err != nil {
		cancel()
		closeStore()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stopped := false
	s := &Server{Config: server.LoopbackConfig(), Dir: dir, Store: config.Store, Claims: server.Claims(), Authority: config.Authority, Local: server.LocalConfig(), Held: server.Held, PlainGets: server.PlainGets, PlainWatches: server.PlainWatches, stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the API server ended: %v", err)
		}
		closeStore()
	}}
	t.Cleanup(s.stop)
	s.Kube, err = kubernetes.NewForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	s.waitReady(t)
	return s
}

func (s *Server) waitReady(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		body, err := s.Kube.CoreV1().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not ready after %v: %v: %s", readyTimeout, err, body)
		case <-ticker.C:
		}
	}
}

// patience only bounds tests that fail: a reflector's pause alone may be 26 s once an API
// server was away for a while.
const patience = 2 * time.Minute

// Eventually tries until it succeeds; what says what is waited for.
func Eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not after %v: %v", what, patience, err)
		case <-tick.C:
		}
	}
}
