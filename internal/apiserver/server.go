package apiserver

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/service"
)

// Config is what an API server needs to run.
type Config struct {
	Store         etcd.Source
	Authority     *certs.Authority
	Serving       *certs.Serving
	SigningKey    *ecdsa.PrivateKey // of service accounts' tokens
	Listener      net.Listener
	ServiceCIDRs  []netip.Prefix // the primary family's first
	GuestCIDRs    []netip.Prefix
	NodePortFirst uint16 // the range of node ports, both ends included
	NodePortLast  uint16
	ClusterDomain string
	Doors         Doors     // nil: guests' consoles can't be reached
	Audit         io.Writer // notes who wrote what; nil: nothing is noted
	Logger        *slog.Logger
	Version       string // Portico's own
}

// Server is an API server that is ready to run.
type Server struct {
	config   Config
	generic  *genericapiserver.GenericAPIServer
	loopback *rest.Config
	serving  *genericapiserver.SecureServingInfo
	mirror   *claims.Mirror // of the claims, for the allocators
	stop     context.CancelFunc
}

// New builds the server on a store of our format, whose claims it begins to follow;
// ctx ends what it started.
func New(ctx context.Context, config Config) (*Server, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{config: config, stop: cancel}
	if err := s.build(ctx); err != nil {
		cancel()
		if s.mirror != nil {
			s.mirror.Wait()
		}
		return nil, err
	}
	return s, nil
}

func (s *Server) build(ctx context.Context) error {
	pools, guests, err := newPools(s.config)
	if err != nil {
		return err
	}
	client, err := s.config.Store.Client()
	if err != nil {
		return fmt.Errorf("connect to the store: %w", err)
	}
	if err := etcd.Stamp(ctx, client.Client); err != nil {
		return err
	}
	if s.mirror, err = claims.StartMirror(ctx, client, pools, newGuestHints(guests)); err != nil {
		return err
	}
	return s.assemble(registryConfig{
		cluster: service.Cluster{Families: pools.Families()}, pools: pools, guests: guests, doors: s.config.Doors,
		mirror: s.mirror, claims: client,
	}, storeCheck(client))
}

func newPools(c Config) (*ipam.Pools, *ipam.GuestRange, error) {
	ports, err := ipam.NewPortRange(c.NodePortFirst, c.NodePortLast, nil)
	if err != nil {
		return nil, nil, err
	}
	var ranges []*ipam.Range
	for _, prefix := range c.ServiceCIDRs {
		r, err := ipam.NewRange(prefix, nil)
		if err != nil {
			return nil, nil, err
		}
		ranges = append(ranges, r)
	}
	pools, err := ipam.NewPools(ports, ranges...)
	if err != nil {
		return nil, nil, err
	}
	guests, err := ipam.NewGuestRange(c.GuestCIDRs...)
	return pools, guests, err
}

// LoopbackConfig is how parts of this process call the server.
func (s *Server) LoopbackConfig() *rest.Config { return rest.CopyConfig(s.loopback) }

// Run serves until ctx ends and requests under way are answered.
func (s *Server) Run(ctx context.Context) error {
	defer func() {
		s.stop()
		s.mirror.Wait()
	}()
	if err := s.generic.PrepareRun().RunWithContext(ctx); err != nil {
		return fmt.Errorf("run the API server: %w", err)
	}
	return nil
}

// ServeOn answers on one more listener, with the same certificate, until ctx ends.
// The returned channel is closed when its last request is answered.
func (s *Server) ServeOn(ctx context.Context, l net.Listener) (<-chan struct{}, error) {
	info := *s.serving
	info.Listener = l
	stopped, _, err := info.Serve(s.generic.Handler, shutdownTimeout, ctx.Done())
	if err != nil {
		return nil, fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	}
	return stopped, nil
}

// shutdownTimeout is how long requests under way may take to end.
const shutdownTimeout = 10 * time.Second

// Handler answers requests without a listener; for tests.
func (s *Server) Handler() http.Handler { return s.generic.Handler }

// storeCheck is the readiness check of the store.
func storeCheck(c *kubernetes.Client) func(*http.Request) error {
	return func(req *http.Request) error {
		ctx, cancel := context.WithTimeout(req.Context(), 2*time.Second)
		defer cancel()
		_, err := c.KV.Get(ctx, etcd.Prefix+"/health")
		return err
	}
}

// Address is where the server listens first.
func (s *Server) Address() string { return s.config.Listener.Addr().String() }
