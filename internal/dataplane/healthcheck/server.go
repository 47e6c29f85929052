package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// Options of a Server.
type Options struct {
	// Addresses are the node-port addresses; SetAddresses changes them later.
	Addresses []netip.Addr
	// Healthy tells why the data plane doesn't carry out what it should, nil when it
	// does.
	Healthy func() error
	Logger  *slog.Logger
	// After is the clock of retries; nil means time.After.
	After func(time.Duration) <-chan time.Time
}

// retry is the pause before an address that couldn't be bound is tried again:
// well below the ten seconds at which cloud load balancers check.
const retry = 2 * time.Second

// Server answers health checks. It takes views like any agent.Consumer; Run opens
// and closes the ports.
type Server struct {
	healthy func() error
	log     *slog.Logger
	after   func(time.Duration) <-chan time.Time
	kick    chan struct{} // capacity 1: there is news

	mu       sync.Mutex // guards the following
	node     string
	addrs    []netip.Addr
	services map[types.NamespacedName]*service
}

// service is a Service with a health check node port, and its count of local
// ready endpoints in each family.
type service struct {
	name  types.NamespacedName
	port  uint16
	local [2]int // IPv4, IPv6
}

// New makes a Server.
func New(o Options) *Server {
	s := &Server{healthy: o.Healthy, log: o.Logger, after: o.After, kick: make(chan struct{}, 1), services: map[types.NamespacedName]*service{}}
	if s.healthy == nil {
		s.healthy = func() error { return nil }
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.after == nil {
		s.after = time.After
	}
	s.addrs = slices.Clone(o.Addresses)
	return s
}

// Replace makes views all there is.
func (s *Server) Replace(node *catalog.Node, views []catalog.View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.node = node.Name
	s.services = map[types.NamespacedName]*service{}
	for i := range views {
		s.put(&views[i])
	}
	s.wake()
}

// Update takes the Services that changed.
func (s *Server) Update(views []catalog.View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range views {
		s.put(&views[i])
	}
	s.wake()
}

// SetAddresses replaces the addresses on which the ports are open.
func (s *Server) SetAddresses(addrs []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addrs = slices.Clone(addrs)
	s.wake()
}

// put takes one view. mu is held.
func (s *Server) put(v *catalog.View) {
	svc := v.Service
	if svc == nil || svc.Foreign || !svc.ExternalLocal || svc.HealthCheckNodePort == 0 {
		delete(s.services, v.Name)
		return
	}
	s.services[v.Name] = &service{name: v.Name, port: svc.HealthCheckNodePort, local: count(s.node, v.Slices)}
}

// count gives the number of ready endpoints on the node, by family. An endpoint
// that several ports or slices list is one.
func count(node string, all []*catalog.Slice) (n [2]int) {
	seen := map[netip.Addr]bool{}
	for _, sl := range all {
		for i := range sl.Endpoints {
			e := &sl.Endpoints[i]
			if !e.Ready || e.Node != node || node == "" || seen[e.Addr] {
				continue
			}
			seen[e.Addr] = true
			n[family(e.Addr)]++
		}
	}
	return n
}

func family(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// wake tells Run that ports may have to be opened or closed. mu is held.
func (s *Server) wake() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// door is an open port at one address.
type door struct {
	of     types.NamespacedName
	server *http.Server
}

// Run keeps the ports open that should be, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	open := map[netip.AddrPort]door{}
	var group sync.WaitGroup
	defer group.Wait()
	defer func() {
		for _, d := range open {
			d.server.Close() //nolint:errcheck // the process or the node's part ends
		}
	}()
	var again <-chan time.Time
	failed := map[netip.AddrPort]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.kick:
		case <-again:
		}
		want := s.wanted()
		for at, d := range open {
			if want[at] != d.of {
				d.server.Close() //nolint:errcheck // nobody is owed an answer any more
				delete(open, at)
			}
		}
		again = nil
		for at, of := range want {
			if _, ok := open[at]; ok {
				continue
			}
			l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.String())
			if err != nil {
				if again = s.after(retry); !failed[at] {
					s.log.Warn("Can't open a health check node port; trying again", "service", of, "at", at, "err", err)
				}
				failed[at] = true
				continue
			}
			delete(failed, at)
			srv := &http.Server{Handler: s.handler(of, family(at.Addr())), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 8 << 10}
			open[at] = door{of, srv}
			group.Go(func() {
				if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
					s.log.Error("A health check node port ended", "service", of, "at", at, "err", err)
				}
			})
		}
	}
}

// wanted gives what should be open. Of two Services with one port, which the API
// refuses, the first by name has it.
func (s *Server) wanted() map[netip.AddrPort]types.NamespacedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[netip.AddrPort]types.NamespacedName{}
	for name, svc := range s.services {
		for _, a := range s.addrs {
			at := netip.AddrPortFrom(a, svc.port)
			if other, ok := out[at]; !ok || name.String() < other.String() {
				out[at] = name
			}
		}
	}
	return out
}

// answer is the body, with kube-proxy's names.
type answer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int  `json:"localEndpoints"`
	ServiceProxyHealthy bool `json:"serviceProxyHealthy"`
}

// handler answers for one Service at addresses of one family.
func (s *Server) handler(of types.NamespacedName, family int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		svc := s.services[of]
		s.mu.Unlock()
		if svc == nil {
			http.Error(w, "no such Service", http.StatusNotFound)
			return
		}
		var a answer
		a.Service.Namespace, a.Service.Name = of.Namespace, of.Name
		a.LocalEndpoints, a.ServiceProxyHealthy = svc.local[family], s.healthy() == nil
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(a.LocalEndpoints))
		if a.LocalEndpoints > 0 && a.ServiceProxyHealthy {
			w.WriteHeader(http.StatusOK)
		} else {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		e := json.NewEncoder(w)
		e.SetIndent("", "\t")
		e.Encode(a) //nolint:errcheck // the client went away
	})
}
