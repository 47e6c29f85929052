package dns

import (
	"cmp"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/dns/forward"
	"portico.dev/portico/internal/dns/pods"
	"portico.dev/portico/internal/dns/settings"
)

// Config says what the server answers and to whom.
type Config struct {
	Zone      string         // the cluster domain: "cluster.local"
	TTL       time.Duration  // of the zone's records; 0: records.DefaultTTL
	Services  []netip.Prefix // the first ranges of cluster IPs; SetServiceRanges changes them later
	Workloads []netip.Prefix // the ranges of pods and guests
	Pods      records.PodMode
	// Search looks for names of fewer than five dots in the search path of the
	// client's namespace. ReplacePods and UpdatePod tell whose an address is.
	Search bool

	// AllowFrom are the clients' addresses: the pods' and guests' ranges and the
	// node's own. Loopback is always allowed, everybody else is refused.
	AllowFrom []netip.Prefix

	// Upstreams answer for all other names; when there are none, the servers of
	// the file ResolvConf do, and without that nobody does.
	Upstreams  []netip.AddrPort
	ResolvConf string

	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
}

// Server is the node's DNS server. It answers SERVFAIL for the cluster's names
// until the first Replace.
type Server struct {
	cfg     Config
	forward *forward.Forwarder
	workers *limiter // queries on their way to upstream
	conns   *limiter // TCP connections

	state atomic.Pointer[state]
	slow  [transports]counts // what isn't answered by a UDP socket's own goroutine

	mu     sync.Mutex // guards the following
	zone   *records.Zone
	serial uint32
	synced bool
	own    []netip.AddrPort // where Serve listens
	vips   []netip.Addr     // cluster IPs that lead to servers like this one
	counts []*counts        // of each socket
}

// state is what queries are answered from, swapped as a whole.
type state struct {
	table  *records.Table
	synced bool
	since  time.Time
}

var (
	_ agent.Consumer = (*Server)(nil)
	_ pods.Consumer  = (*Server)(nil)
)

// New makes a server that knows no Services yet.
func New(cfg Config) (*Server, error) {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	zone, err := records.NewZone(records.Config{Domain: cfg.Zone, TTL: cfg.TTL, Reverse: slices.Concat(cfg.Services, cfg.Workloads), Pods: cfg.Pods, Search: cfg.Search})
	if err != nil {
		return nil, fmt.Errorf("DNS: %w", err)
	}
	cfg.AllowFrom = append(slices.Clone(cfg.AllowFrom), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	s := &Server{
		cfg:     cfg,
		zone:    zone,
		workers: newLimiter(maxWorkers, maxWorkersPerClient),
		conns:   newLimiter(maxConns, maxConnsPerClient),
	}
	for transport := range s.slow {
		s.slow[transport].transport = uint8(transport)
	}
	s.forward = forward.New(forward.Config{
		Servers: cfg.Upstreams, ResolvConf: cfg.ResolvConf, Own: s.isOwn, Now: cfg.Now, Logger: cfg.Logger,
	})
	s.publish()
	return s, nil
}

// Ready reports whether the cluster's names are answered.
func (s *Server) Ready() bool { return s.state.Load().synced }

// Replace takes all Services (agent.Consumer). The node doesn't matter to DNS.
func (s *Server) Replace(_ *catalog.Node, views []agent.View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vips = nil
	s.zone.Replace(s.changes(views))
	s.synced = true
	s.publish()
}

// Update takes the Services that changed (agent.Consumer). When it returns,
// queries get the new answers.
func (s *Server) Update(views []agent.View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone.Update(s.changes(views))
	s.publish()
}

// ReplacePods takes all pods (pods.Consumer): those of machines, and where Search or
// records.PodsExisting is set all others too.
func (s *Server) ReplacePods(pods []*records.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone.ReplacePods(pods)
	s.publish()
}

// UpdatePod takes a pod that changed (pods.Consumer).
func (s *Server) UpdatePod(name types.NamespacedName, pod *records.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.zone.UpdatePod(name, pod) {
		s.publish()
	}
}

// SetServiceRanges replaces the ranges of cluster IPs: the reverse names in them are
// ours to answer, and nobody else is asked for them.
func (s *Server) SetServiceRanges(ranges []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone.Reverse(slices.Concat(ranges, s.cfg.Workloads))
	s.publish()
}

// Configure takes what people have set, in the place of what they had.
func (s *Server) Configure(set settings.Settings) error {
	if err := s.forward.Use(set.Upstreams, set.Stubs); err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone.Own(set.Own)
	s.publish()
	return nil
}

// Namespaces tells which namespaces exist, for answers to NS.svc.ZONE and to pod
// names. Without it the namespaces of Services exist, and pod names are answered
// in any.
func (s *Server) Namespaces(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone.Namespaces(names)
	s.publish()
}

// changes is called with mu held.
func (s *Server) changes(views []agent.View) []records.Change {
	out := make([]records.Change, len(views))
	for i, v := range views {
		out[i] = records.Change{Name: v.Name, Service: v.Service, Slices: v.Slices}
		if records.IsNameServer(v.Name) {
			s.vips = nil
			if v.Service != nil {
				s.vips = v.Service.ClusterIPs
			}
		}
	}
	return out
}

// publish lets queries see the zone as it is. It is called with mu held, or
// before anybody else has s. The serial is the time, unless changes come faster
// than seconds (RFC 1912 2.2).
func (s *Server) publish() {
	now := s.cfg.Now()
	s.serial = max(s.serial+1, uint32(now.Unix()))
	s.state.Store(&state{table: s.zone.Table(s.serial), synced: s.synced, since: now})
}

// isOwn reports addresses that lead back to this server.
func (s *Server) isOwn(a netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.own, a) || slices.Contains(s.vips, a.Addr())
}

func (s *Server) allowed(client netip.Addr) bool {
	client = client.WithZone("") // no prefix contains an address with a zone
	for _, p := range s.cfg.AllowFrom {
		if p.Contains(client) {
			return true
		}
	}
	return false
}
