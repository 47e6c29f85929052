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
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/admissionchain"
	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/apiserver/kinds"
	"portico.dev/portico/internal/apiserver/tokens"
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
	Profiling     bool      // /debug/pprof/ for clients on this host who may read it
	// Snapshot writes a snapshot of the store; nil: there are none to be had here.
	Snapshot func(context.Context, io.Writer) error
	Limits   Limits
	Logger   *slog.Logger
	Version  string // Portico's own
}

// Server is an API server that is ready to run.
type Server struct {
	config   Config
	generic  *genericapiserver.GenericAPIServer
	loopback *rest.Config
	local    *localTransport
	serving  *genericapiserver.SecureServingInfo
	mirror   *claims.Mirror        // of the claims, for the allocators
	hooks    *admissionchain.Hooks // nil until assembled
	ledger   *claims.Ledger
	process  tokens.Process // of this process's parts that act as somebody
	held     func(runtime.Object) runtime.Object
	gets     plainGets
	watches  plainWatches
	writes   atomic.Uint64
	stop     context.CancelFunc
}

// New builds the server on a store of our format, whose claims it begins to follow;
// ctx ends what it started.
func New(ctx context.Context, config Config) (*Server, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Server{config: config, stop: cancel, local: newLocalTransport()}
	if err := s.build(ctx); err != nil {
		cancel()
		if s.mirror != nil {
			s.mirror.Wait()
		}
		s.hooks.Wait()
		return nil, err
	}
	return s, nil
}

func (s *Server) build(ctx context.Context) error {
	pools, families, guests, err := newPools(s.config)
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
	return s.assemble(ctx, registryConfig{
		Config: kinds.Config{Cluster: service.Cluster{Families: families}, Pools: pools, Claims: client, GuestRanges: s.config.GuestCIDRs},
		guests: guests, mirror: s.mirror, doors: s.config.Doors,
	}, storeCheck(client))
}

// newPools makes pools without ranges of addresses, which ServiceCIDR objects bring. The
// configured ones, of which the default object is made, are checked here and give the
// cluster's families.
func newPools(c Config) (*ipam.Pools, []corev1.IPFamily, *ipam.GuestRange, error) {
	ports, err := ipam.NewPortRange(c.NodePortFirst, c.NodePortLast, nil)
	if err != nil {
		return nil, nil, nil, err
	}
	var ranges []*ipam.Range
	for _, prefix := range c.ServiceCIDRs {
		r, err := ipam.NewRange(prefix, nil)
		if err != nil {
			return nil, nil, nil, err
		}
		for _, guest := range c.GuestCIDRs {
			if prefix.Overlaps(guest) {
				return nil, nil, nil, fmt.Errorf("service range %s overlaps with %s, from which virtual machines get their addresses; choose another", prefix, guest)
			}
		}
		ranges = append(ranges, r)
	}
	configured, err := ipam.NewPools(ports, ranges...)
	if err != nil {
		return nil, nil, nil, err
	}
	families := configured.Families()
	if len(families) == 0 || len(ranges) > len(families) {
		return nil, nil, nil, fmt.Errorf("service ranges: one is needed, or one of each family, got %v", c.ServiceCIDRs)
	}
	pools, err := ipam.NewPools(ports)
	if err != nil {
		return nil, nil, nil, err
	}
	guests, err := ipam.NewGuestRange(c.GuestCIDRs...)
	return pools, families, guests, err
}

// Claims are the stored claims on addresses and ports, for the controller that checks
// them.
func (s *Server) Claims() *claims.Ledger { return s.ledger }

// LoopbackConfig is how parts of this process call the server.
func (s *Server) LoopbackConfig() *rest.Config { return rest.CopyConfig(s.loopback) }

// ConfigAs is how a part of this process calls the server as a user, with that user's
// rights.
func (s *Server) ConfigAs(name string, groups ...string) (*rest.Config, error) {
	token, err := s.process.Issue(&user.DefaultInfo{Name: name, Groups: groups})
	if err != nil {
		return nil, err
	}
	config := s.LocalConfig()
	config.BearerToken = token
	return config, nil
}

// Run serves until ctx ends and requests under way are answered.
func (s *Server) Run(ctx context.Context) error {
	defer func() {
		s.stop()
		s.mirror.Wait()
		s.hooks.Wait()
		s.watches.readers.Wait()
	}()
	prepared := s.generic.PrepareRun()
	s.local.serve(s.generic.Handler)
	if err := prepared.RunWithContext(ctx); err != nil {
		return fmt.Errorf("run the API server: %w", err)
	}
	return nil
}

// ServeOn answers on one more listener, with the same certificate, until ctx ends.
// The returned channel is closed when its last request is answered.
func (s *Server) ServeOn(ctx context.Context, l net.Listener) (<-chan struct{}, error) {
	info := *s.serving
	info.Listener = newBundling(l)
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
