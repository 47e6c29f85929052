package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	core "portico.dev/portico/internal/core/bgp"
)

// stage is what moves look at, and when.
type stage struct {
	t *testing.T
	m *moves
	sight
	now time.Time
}

// newStage has a session with each router, and Services that all of them know.
func newStage(t *testing.T, services int, routers ...string) *stage {
	s := &stage{t: t, m: newMoves(), now: time.Unix(1_000_000, 0), sight: sight{
		self: "a", subjects: &subjects{services: map[types.NamespacedName]types.UID{}, peers: map[string]types.UID{}},
		peers: map[string]*peer{}, routes: map[types.NamespacedName]map[route]bool{},
	}}
	for i, r := range routers {
		s.subjects.peers[r] = types.UID(r)
		s.peers[r] = &peer{config: core.Config{Peer: r, Address: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Port: 179}, remoteASN: 64513}
		s.up(r)
	}
	for i := range services {
		name := types.NamespacedName{Namespace: "default", Name: fmt.Sprintf("web-%04d", i)}
		s.subjects.services[name] = types.UID(name.Name)
		s.routes[name] = map[route]bool{}
		for _, r := range routers {
			s.routes[name][s.route(i, r)] = true
		}
	}
	return s
}

func (s *stage) route(i int, router string) route {
	return route{netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), 32), router}
}

func (s *stage) up(router string) {
	s.peers[router].status = Established
	s.m.established(router)
}

// down breaks a session, and takes its routes.
func (s *stage) down(router, why string, bfd bool) {
	p := s.peers[router]
	p.status, p.why = Connecting, why
	s.m.lost(router, why, bfd)
}

// visible gives the routes of the sessions that are up.
func (s *stage) visible() *sight {
	is := s.sight
	is.routes = map[types.NamespacedName]map[route]bool{}
	for name, routes := range s.routes {
		for r := range routes {
			if p := s.peers[r.peer]; p != nil && p.status == Established {
				if is.routes[name] == nil {
					is.routes[name] = map[route]bool{}
				}
				is.routes[name][r] = true
			}
		}
	}
	return &is
}

func (s *stage) tell() []Event { return s.m.tell(s.visible(), s.now) }

// says compares the events that are due with lines of type, reason, object and message.
func (s *stage) says(want ...string) {
	s.t.Helper()
	var got []string
	for _, e := range s.tell() {
		if e.On.UID == "" || e.On.APIVersion == "" {
			s.t.Errorf("an event on %+v", e.On)
		}
		got = append(got, fmt.Sprintf("%s %s %s %s: %s", e.Type, e.Reason, e.On.Kind, e.On.Name, e.Message))
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		s.t.Errorf("it says\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// LB-07: what becomes of a Service's routes is told on it, and of sessions on the BGPPeer;
// nothing is told twice.
func TestMovesAreTold(t *testing.T) {
	s := newStage(t, 1, "left", "right")
	s.says(
		`Normal SessionEstablished BGPPeer left: node "a" has a session with 192.0.2.1:179, AS 64513`,
		`Normal SessionEstablished BGPPeer right: node "a" has a session with 192.0.2.2:179, AS 64513`,
		`Normal nodeAssigned Service web-0000: announcing from node "a" with protocol "bgp": 198.51.0.0/32 to left, 198.51.0.0/32 to right`,
	)
	s.says()
	s.down("left", "BFD: silent", true)
	s.says(
		`Warning BFDDown BGPPeer left: node "a" lost its session with 192.0.2.1:179: BFD: silent`,
		`Warning nodeWithdrawn Service web-0000: no longer announcing from node "a" with protocol "bgp": 198.51.0.0/32 to left: BFD: silent`,
	)
	s.up("left")
	s.says(
		`Normal SessionEstablished BGPPeer left: node "a" has a session with 192.0.2.1:179, AS 64513`,
		`Normal nodeAssigned Service web-0000: announcing from node "a" with protocol "bgp": 198.51.0.0/32 to left`,
	)
	web := types.NamespacedName{Namespace: "default", Name: "web-0000"}
	all := s.routes[web]
	s.routes[web] = nil
	s.left = []core.Left{{Service: web, Address: netip.MustParseAddr("198.51.0.0"), Reason: core.NoEndpoint}}
	s.says(`Normal nodeWithdrawn Service web-0000: no longer announcing from node "a" with protocol "bgp": 198.51.0.0/32 to left, 198.51.0.0/32 to right: ` + string(core.NoEndpoint))
	s.routes[web], s.left = all, nil
	s.says(`Normal nodeAssigned Service web-0000: announcing from node "a" with protocol "bgp": 198.51.0.0/32 to left, 198.51.0.0/32 to right`)
	left := *s.peers["left"]
	s.peers["left"] = &peer{config: left.config, status: Connecting, why: untried}
	s.says(`Warning nodeWithdrawn Service web-0000: no longer announcing from node "a" with protocol "bgp": 198.51.0.0/32 to left: the session begins anew, with other settings`)
	s.peers["left"] = &left
	s.says(
		`Normal SessionEstablished BGPPeer left: node "a" has a session with 192.0.2.1:179, AS 64513`,
		`Normal nodeAssigned Service web-0000: announcing from node "a" with protocol "bgp": 198.51.0.0/32 to left`,
	)
	s.leaving, s.peers = true, nil
	s.says(`Normal nodeWithdrawn Service web-0000: no longer announcing from node "a" with protocol "bgp": 198.51.0.0/32 to left, 198.51.0.0/32 to right: the node leaves`)
	if c := s.m.counts["left"]; c.established != 2 || c.lost != 0 || c.lostByBFD != 1 || c.announced != 4 || c.withdrawn != 4 {
		t.Errorf("counted %+v", c)
	}
}

// LB-07: a session that breaks twice a second for ten minutes, with hundreds of Services behind
// it, costs the API a bounded number of events; what is told at last is true.
func TestFlappingPeerIsToldSeldom(t *testing.T) {
	const services, flaps = 300, 1200
	s := newStage(t, services, "router")
	begin, events, of := s.now, 0, map[string]int{}
	told := map[string]string{}
	look := func() {
		for _, e := range s.tell() {
			events++
			of[e.On.Kind+e.On.Name]++
			told[e.On.Name] = e.Reason
		}
		if most := nodeBudget.burst + nodeBudget.perSecond*s.now.Sub(begin).Seconds() + 1; float64(events) > most {
			t.Fatalf("%d events in %v", events, s.now.Sub(begin))
		}
	}
	for range flaps {
		look()
		s.now = s.now.Add(250 * time.Millisecond)
		s.down("router", "it was gone", false)
		look()
		s.now = s.now.Add(250 * time.Millisecond)
		s.up("router")
	}
	for name, n := range of {
		if n > 10+1+20/2 { // the burst, the second of two, and what twenty minutes add
			t.Errorf("%s has %d events", name, n)
		}
	}
	s.down("router", "it is gone", false)
	for range 600 {
		s.now = s.now.Add(time.Second)
		look()
	}
	for i := range services {
		name := fmt.Sprintf("web-%04d", i)
		if last := told[name]; last == nodeAssigned {
			t.Fatalf("of %s was told last %s", name, last)
		}
	}
	if told["router"] != sessionLost {
		t.Errorf("of the session was told last %s", told["router"])
	}
	if c := s.m.counts["router"]; c.lost != flaps+1 || c.established != flaps+1 {
		t.Errorf("counted %+v", c)
	}
	t.Logf("%d events of %d changes", events, 2*(flaps+1)*(services+1))
}

// LB-07: a loss that waited to be told says how often it happened, also when the session is
// up again.
func TestLossesAreSummedUp(t *testing.T) {
	s := newStage(t, 0, "router")
	for range 6 {
		s.tell()
		s.down("router", "first", false)
		s.up("router")
	}
	for range 2 {
		s.says()
		s.down("router", "second", false)
		s.up("router")
	}
	s.now = s.now.Add(4 * time.Minute)
	s.says(
		`Warning SessionLost BGPPeer router: node "a" lost its session with 192.0.2.1:179: second; lost 3 times since the last event`,
		`Normal SessionEstablished BGPPeer router: node "a" has a session with 192.0.2.1:179, AS 64513`,
	)
	s.says()
}
