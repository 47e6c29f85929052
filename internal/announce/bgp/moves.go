package bgp

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/announcing"
	core "portico.dev/portico/internal/core/bgp"
	"portico.dev/portico/internal/core/metallb"
	kinds "portico.dev/portico/internal/metallb"
)

// The reasons of events. The first is MetalLB's, and layer 2 has it too.
const (
	nodeAssigned       = "nodeAssigned"
	nodeWithdrawn      = "nodeWithdrawn"
	sessionEstablished = "SessionEstablished"
	sessionLost        = "SessionLost"
	bfdDown            = "BFDDown"
)

// Events are bounded, or a router that comes and goes would cost the API a write for each
// Service each time. What is over waits, and then says what is true by that time.
var (
	// nodeBudget is of all events of a node: a start with some Services is told at once.
	nodeBudget = budget{burst: 100, perSecond: 2}
	// objectBudget is of those on one Service or BGPPeer: of a loss and the return there are
	// two on each.
	objectBudget = budget{burst: 10, perSecond: 1. / 120}
)

// Event is something to tell people on an object of the API.
type Event struct {
	On              corev1.ObjectReference
	Type            string // corev1.EventTypeNormal or Warning
	Reason, Message string
}

// moves knows what people were told of routes and sessions, and counts them. It tells the
// difference between what was told and what is, when that is allowed.
type moves struct {
	spent    bucket
	services map[types.NamespacedName]*toldService
	sessions map[string]*toldSession // by peer
	now      map[route]bool          // the routes of the last look
	counts   map[string]*peerCounts  // by peer
}

// route is a prefix that a peer was told and takes.
type route struct {
	prefix netip.Prefix
	peer   string
}

// toldService is what was told of a Service.
type toldService struct {
	spent  bucket
	routes map[route]bool
}

// toldSession is what was told of a session, and what there is to tell.
type toldSession struct {
	spent       bucket
	established bool
	losses      int // not told
	why         string
	bfd         bool // it was BFD that saw the last loss
}

// peerCounts are for metrics.
type peerCounts struct {
	established, lost, lostByBFD, announced, withdrawn uint64
}

func newMoves() *moves {
	return &moves{
		services: map[types.NamespacedName]*toldService{}, sessions: map[string]*toldSession{}, now: map[route]bool{}, counts: map[string]*peerCounts{},
	}
}

// entry gives the value of a key, a new one where there is none.
func entry[K comparable, V any](all map[K]*V, key K) *V {
	v := all[key]
	if v == nil {
		v = new(V)
		all[key] = v
	}
	return v
}

// established notes that a session has begun.
func (m *moves) established(peer string) { entry(m.counts, peer).established++ }

// lost notes that a session broke. One that was ended by us, for nobody wants it, isn't lost.
func (m *moves) lost(peer, why string, byBFD bool) {
	s, counts := entry(m.sessions, peer), entry(m.counts, peer)
	s.losses++
	s.why, s.bfd = why, byBFD
	if byBFD {
		counts.lostByBFD++
	} else {
		counts.lost++
	}
}

// sight is what there is at a moment.
type sight struct {
	self     string
	subjects *subjects
	left     []core.Left
	peers    map[string]*peer
	routes   map[types.NamespacedName]map[route]bool
	leaving  bool
}

// subjects are the objects that events can be on.
type subjects struct {
	services map[types.NamespacedName]types.UID
	peers    map[string]types.UID
}

func subjectsOf(in *announcing.Input) *subjects {
	s := &subjects{services: make(map[types.NamespacedName]types.UID, len(in.Services)), peers: map[string]types.UID{}}
	for i := range in.Services {
		s.services[in.Services[i].Service.Name] = in.Services[i].Service.UID
	}
	if in.Config != nil {
		for _, p := range in.Config.BGPPeers {
			s.peers[p.Name] = p.UID
		}
	}
	return s
}

// routesOf gives what peers know of each Service.
func routesOf(plan *core.Plan, peers map[string]*peer) map[types.NamespacedName]map[route]bool {
	out := map[types.NamespacedName]map[route]bool{}
	for i := range plan.Sessions {
		session := &plan.Sessions[i]
		p := peers[session.Peer]
		if p == nil || p.status != Established {
			continue
		}
		for j := range session.Paths {
			path := &session.Paths[j]
			if !p.takes(path.Prefix) {
				continue
			}
			for _, service := range path.Services {
				if out[service] == nil {
					out[service] = map[route]bool{}
				}
				out[service][route{path.Prefix, session.Peer}] = true
			}
		}
	}
	return out
}

// tell gives the events that are due now.
func (m *moves) tell(is *sight, now time.Time) []Event {
	m.count(is)
	var out []Event
	for _, name := range slices.Sorted(maps.Keys(is.subjects.peers)) {
		out = append(out, m.tellSession(is, name, now)...)
	}
	maps.DeleteFunc(m.sessions, func(name string, _ *toldSession) bool { return is.peers[name] == nil && !is.leaving })
	for _, name := range slices.SortedFunc(maps.Keys(is.subjects.services), announcing.CompareNames) {
		out = append(out, m.tellService(is, name, now)...)
	}
	maps.DeleteFunc(m.services, func(name types.NamespacedName, _ *toldService) bool {
		_, there := is.subjects.services[name]
		return !there
	})
	return out
}

// count counts the routes that came and went.
func (m *moves) count(is *sight) {
	seen := map[route]bool{}
	for _, routes := range is.routes {
		maps.Copy(seen, routes)
	}
	for r := range seen {
		if !m.now[r] {
			entry(m.counts, r.peer).announced++
		}
	}
	for r := range m.now {
		if !seen[r] {
			entry(m.counts, r.peer).withdrawn++
		}
	}
	m.now = seen
	maps.DeleteFunc(m.counts, func(name string, _ *peerCounts) bool { _, there := is.subjects.peers[name]; return !there })
}

func (m *moves) tellSession(is *sight, name string, now time.Time) (out []Event) {
	p := is.peers[name]
	if p == nil {
		return nil
	}
	s := entry(m.sessions, name)
	up := p.status == Established
	if s.losses == 0 && up == s.established || !m.may(&s.spent, now) {
		return nil
	}
	on := corev1.ObjectReference{
		APIVersion: kinds.BGPPeers.GroupVersion().String(), Kind: "BGPPeer", Namespace: metallb.Namespace, Name: name, UID: is.subjects.peers[name],
	}
	with := netip.AddrPortFrom(p.config.Address, p.config.Port)
	if s.losses > 0 {
		e := Event{on, corev1.EventTypeWarning, sessionLost, fmt.Sprintf("node %q lost its session with %s: %s", is.self, with, s.why)}
		if s.bfd {
			e.Reason = bfdDown
		}
		if s.losses > 1 {
			e.Message += fmt.Sprintf("; lost %d times since the last event", s.losses)
		}
		out = append(out, e)
	}
	if up {
		out = append(out, Event{on, corev1.EventTypeNormal, sessionEstablished, fmt.Sprintf("node %q has a session with %s, AS %d", is.self, with, p.remoteASN)})
	}
	s.established, s.losses = up, 0
	m.spend(&s.spent, len(out))
	return out
}

func (m *moves) tellService(is *sight, name types.NamespacedName, now time.Time) (out []Event) {
	s, routes := entry(m.services, name), is.routes[name]
	if maps.Equal(s.routes, routes) || !m.may(&s.spent, now) {
		return nil
	}
	on := corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: name.Namespace, Name: name.Name, UID: is.subjects.services[name]}
	if gone := minus(s.routes, routes); len(gone) > 0 {
		e := Event{on, corev1.EventTypeNormal, nodeWithdrawn, fmt.Sprintf(
			"no longer announcing from node %q with protocol \"bgp\": %s: %s", is.self, list(gone), is.why(name, gone[0]))}
		if is.broken(gone[0]) {
			e.Type = corev1.EventTypeWarning
		}
		out = append(out, e)
	}
	if fresh := minus(routes, s.routes); len(fresh) > 0 {
		out = append(out, Event{on, corev1.EventTypeNormal, nodeAssigned, fmt.Sprintf("announcing from node %q with protocol \"bgp\": %s", is.self, list(fresh))})
	}
	s.routes = routes
	m.spend(&s.spent, len(out))
	return out
}

// may tells whether an object's budget and the node's have one more.
func (m *moves) may(object *bucket, now time.Time) bool {
	return object.has(objectBudget, now) && m.spent.has(nodeBudget, now)
}

func (m *moves) spend(object *bucket, events int) {
	object.spent += float64(events)
	m.spent.spent += float64(events)
}

// minus gives the routes of a that aren't in b, in order.
func minus(a, b map[route]bool) (out []route) {
	for r := range a {
		if !b[r] {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b route) int {
		return cmp.Or(a.prefix.Compare(b.prefix), strings.Compare(a.peer, b.peer))
	})
	return out
}

// list names some routes, and counts the others.
func list(all []route) string {
	const named = 4
	var texts []string
	for _, r := range all[:min(named, len(all))] {
		texts = append(texts, fmt.Sprintf("%s to %s", r.prefix, r.peer))
	}
	if more := len(all) - named; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}

// broken tells whether a route is gone because its session is.
func (is *sight) broken(r route) bool {
	p := is.peers[r.peer]
	return p != nil && p.status != Established && !is.leaving
}

// why says why a Service's route is gone.
func (is *sight) why(service types.NamespacedName, r route) string {
	p := is.peers[r.peer]
	switch {
	case is.leaving:
		return "the node leaves"
	case p == nil:
		return "this node has no session with it any more"
	case p.status != Established && p.why == untried:
		return "the session begins anew, with other settings"
	case p.status != Established:
		return p.why
	}
	for _, l := range is.left {
		if l.Service == service && r.prefix.Contains(l.Address) {
			return string(l.Reason)
		}
	}
	return "the Service or the BGPAdvertisements no longer ask for it"
}

// budget is how many events there may be at once, and how many more in a second.
type budget struct {
	burst, perSecond float64
}

// bucket is what is spent of a budget.
type bucket struct {
	spent float64
	at    time.Time
}

// has tells whether there is one more.
func (b *bucket) has(of budget, now time.Time) bool {
	b.spent = max(0, b.spent-max(0, now.Sub(b.at).Seconds())*of.perSecond)
	b.at = now
	return b.spent+1 <= of.burst
}
