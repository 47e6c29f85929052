package bgp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/pkg/server"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/announce/bgp/bfd"
	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/core/announcing"
	core "portico.dev/portico/internal/core/bgp"
	"portico.dev/portico/internal/core/metallb"
)

// again is how often what failed is tried anew and Secrets are read anew.
const again = 10 * time.Second

// Options is what a Speaker needs of its surroundings.
type Options struct {
	Log *slog.Logger
	// Password gives the password in a Secret. nil: there are no Secrets.
	Password func(context.Context, metallb.SecretReference) (string, error)
	// Changed is called when State may say something else. It must not block. nil: nobody.
	Changed func()
	// Event tells people of a move, on a Service or a BGPPeer. It must not block. nil: nobody.
	Event func(Event)
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// Speaker keeps the sessions of a node. It is a part of package announce.
type Speaker struct {
	Options
	wake chan struct{} // capacity 1: Run has something to do
	bfd  *bfd.Server

	// Run alone uses these.
	routerID netip.Addr
	paths    map[netip.Prefix]announced
	groups   map[string]*group // by key
	last     uint32            // number of the newest group
	policy   string            // what the server has

	mu       sync.Mutex // guards the following
	server   *server.BgpServer
	plan     *core.Plan // nil: nothing was Set yet
	self     string     // the node of the plan
	subjects *subjects  // of the plan
	moves    *moves
	peers    map[string]*peer
	leaving  chan struct{} // closed when Leave was asked for
	left     chan struct{} // closed when all was withdrawn
	problems []error       // of the last round
}

// announced is a path in the server's table.
type announced struct {
	group   uint32
	nextHop netip.Addr
}

// New makes a Speaker without sessions; Run has it speak.
func New(o Options) *Speaker {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	return &Speaker{
		Options: o, wake: make(chan struct{}, 1), bfd: bfd.NewServer(o.Log),
		leaving: make(chan struct{}), left: make(chan struct{}),
		peers: map[string]*peer{}, moves: newMoves(),
	}
}

// Set hands over what decides; Run makes the sessions equal to it.
func (s *Speaker) Set(in announcing.Input) {
	plan := core.Decide(in)
	s.mu.Lock()
	s.plan, s.self, s.subjects = &plan, in.Self, subjectsOf(&in)
	s.mu.Unlock()
	s.poke()
}

// decided gives the last plan; nil before the first Set.
func (s *Speaker) decided() *core.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plan
}

// Statuses says for each announced Service to which peers, as a node's objects in the API;
// false before the first Set.
func (s *Speaker) Statuses(node string) (objects []metav1.Object, ok bool) {
	plan := s.decided()
	if plan == nil {
		return nil, false
	}
	select {
	case <-s.leaving:
		return nil, true
	default:
	}
	for service, peers := range plan.Peers() {
		objects = append(objects, statuses.BGP(node, service, peers))
	}
	return objects, true
}

// Faults gives what was written and can't be, what Secrets lack among it.
func (s *Speaker) Faults() (faults []announcing.Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, err := range s.problems {
		var fault announcing.Fault
		if errors.As(err, &fault) {
			faults = append(faults, fault)
		}
	}
	if s.plan != nil {
		faults = append(faults, s.plan.Faults...)
	}
	return faults
}

func (s *Speaker) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run keeps the sessions until ctx ends. Then peers with graceful restart see a connection
// that breaks and keep the routes for the next start; the others are told goodbye.
func (s *Speaker) Run(ctx context.Context) error {
	defer s.stop(true)
	ticker := time.NewTicker(again)
	defer ticker.Stop()
	leaving := s.leaving
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-leaving:
			leaving = nil
			s.stop(false)
			s.tellMoves(true)
			close(s.left)
			continue
		case <-s.wake:
		case <-ticker.C:
		}
		if leaving != nil {
			s.reconcile(ctx)
		}
	}
}

// Leave ends all sessions with a notification, for a stop that is meant to last: routers
// forget the routes at once, graceful restart or not. It returns when that is said. Run
// goes on, silently.
func (s *Speaker) Leave(ctx context.Context) error {
	s.mu.Lock()
	select {
	case <-s.leaving:
	default:
		close(s.leaving)
	}
	s.mu.Unlock()
	select {
	case <-s.left:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("withdraw from BGP routers: %w", ctx.Err())
	}
}

// reconcile makes the server equal to the plan. What fails is logged once, shown by State,
// and tried again.
func (s *Speaker) reconcile(ctx context.Context) {
	plan := s.decided()
	if plan == nil {
		return
	}
	var problems []error
	if s.running() && (s.routerID != plan.RouterID || len(plan.Sessions) == 0) {
		s.stop(false)
	}
	if len(plan.Sessions) > 0 {
		problems = s.converge(ctx, plan)
	}
	s.mu.Lock()
	before := fmt.Sprint(s.problems)
	s.problems = problems
	s.mu.Unlock()
	if fmt.Sprint(problems) != before {
		for _, err := range problems {
			s.Log.Warn("BGP can't be as it should", "err", err)
		}
	}
	s.Changed()
	s.tellMoves(false)
}

// tellMoves tells what became of routes and sessions since it was last called, as far as
// that is allowed now. Run calls it again soon.
func (s *Speaker) tellMoves(leaving bool) {
	s.mu.Lock()
	if s.plan == nil {
		s.mu.Unlock()
		return
	}
	due := s.moves.tell(&sight{
		self: s.self, subjects: s.subjects, left: s.plan.Left, peers: s.peers, routes: routesOf(s.plan, s.peers), leaving: leaving,
	}, s.Now())
	s.mu.Unlock()
	if s.Event == nil {
		return
	}
	for _, e := range due {
		s.Event(e)
	}
}

// converge goes from safe to safe: peers that must not hear anything more go first, and
// new ones come last, so that the first thing they hear is complete.
func (s *Speaker) converge(ctx context.Context, plan *core.Plan) []error {
	if err := s.start(plan); err != nil {
		return []error{err}
	}
	configs, problems := s.resolve(ctx, plan)
	gone, broken := s.unfit(configs)
	for _, p := range gone {
		problems = append(problems, s.remove(p))
	}
	problems = append(problems, s.announce(plan))
	for _, p := range broken {
		problems = append(problems, s.renew(p))
	}
	for _, c := range configs {
		problems = append(problems, s.add(c))
	}
	problems = slices.Concat(problems, s.refuse(), s.watchPaths())
	return slices.DeleteFunc(problems, func(err error) bool { return err == nil })
}

// resolve puts passwords into the sessions' settings. A session whose Secret can't be read
// stays as it is, or waits.
func (s *Speaker) resolve(ctx context.Context, plan *core.Plan) (map[string]core.Config, []error) {
	var problems []error
	configs := make(map[string]core.Config, len(plan.Sessions))
	for i := range plan.Sessions {
		c := plan.Sessions[i].Config
		if c.Secret.Name != "" {
			password, err := s.password(ctx, c.Secret)
			if err != nil {
				problems = append(problems, announcing.Fault{
					Kind: "BGPPeer", Name: c.Peer, Field: "spec.passwordSecret",
					Problem: fmt.Sprintf("Secret %s/%s: %v", c.Secret.Namespace, c.Secret.Name, err),
				})
				p := s.peer(c.Peer)
				if p == nil || p.config.Secret != c.Secret {
					continue
				}
				password = p.config.Password
			}
			c.Password = password
		}
		configs[c.Peer] = c
	}
	return configs, problems
}

func (s *Speaker) password(ctx context.Context, ref metallb.SecretReference) (string, error) {
	if s.Password == nil {
		return "", errors.New("no Secret can be read here")
	}
	return s.Password(ctx, ref)
}

func (s *Speaker) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server != nil
}

func (s *Speaker) peer(name string) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peers[name]
}
