package greet

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"
)

// sim is nodes on a network, in a time of its own.
type sim struct {
	t     *testing.T
	now   time.Duration
	rand  *rand.Rand
	nodes []*simNode
	loss  float64                   // of datagrams
	late  func(i int) time.Duration // by which a node's thread comes late; nil: never
	cut   func(from, to int) bool   // nil: everybody hears everybody
	sent  func(from, to int, text []byte)
}

type simNode struct {
	mesh   *mesh
	at     netip.Addr
	inbox  []letter
	next   time.Duration // when its thread comes
	asleep bool
}

type letter struct {
	at   time.Duration
	text []byte
}

var simKey = []byte("a key of thirty-two bytes for it")

func newSim(t *testing.T, n int) *sim {
	s := &sim{t: t, now: time.Second, rand: rand.New(rand.NewPCG(1, uint64(n)))}
	for i := range n {
		s.nodes = append(s.nodes, &simNode{at: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})})
	}
	for i := range n {
		s.start(i)
	}
	return s
}

func name(i int) string { return fmt.Sprintf("node-%d", i) }

// start begins a new run of a node.
func (s *sim) start(i int) {
	n := s.nodes[i]
	n.mesh, n.inbox, n.asleep, n.next = newMesh(name(i), s.rand.Uint64()|1), nil, false, s.now
	n.mesh.keys = [][]byte{simKey}
	n.mesh.word.Ready = true
	var peers []Peer
	for j, o := range s.nodes {
		peers = append(peers, Peer{name(j), []netip.Addr{o.at}})
	}
	peers = append(peers, Peer{"without-agent", []netip.Addr{netip.MustParseAddr("192.0.2.99")}})
	n.mesh.setPeers(s.now, peers)
}

// run lets time pass, a millisecond at a time.
func (s *sim) run(d time.Duration, each func()) {
	for end := s.now + d; s.now < end; s.now += time.Millisecond {
		for i, n := range s.nodes {
			if !n.asleep {
				s.turn(i, n)
			}
		}
		if each != nil {
			each()
		}
	}
}

// turn is what Mesh.loop does.
func (s *sim) turn(i int, n *simNode) {
	came := false
	for len(n.inbox) > 0 && n.inbox[0].at <= s.now && (s.late == nil || s.now >= n.next) {
		n.mesh.receive(s.now, n.inbox[0].text)
		n.inbox = n.inbox[1:]
		came = true
	}
	if s.now >= n.next || came && s.late == nil {
		n.next = n.mesh.turn(s.now)
		if s.late != nil {
			n.next += s.late(i)
		}
	}
	s.post(i)
}

func (s *sim) post(i int) {
	m := s.nodes[i].mesh
	for _, d := range m.out {
		for j, to := range s.nodes {
			if to.at != d.to || s.cut != nil && s.cut(i, j) || s.rand.Float64() < s.loss {
				continue
			}
			if s.sent != nil {
				s.sent(i, j, d.text)
			}
			to.inbox = append(to.inbox, letter{s.now + time.Millisecond, d.text})
		}
	}
	m.out = m.out[:0]
}

func (s *sim) say(i int, w Word) {
	s.nodes[i].mesh.say(s.now, w)
	s.post(i)
}

// alive tells whether node i takes j for living.
func (s *sim) alive(i, j int) bool { return s.nodes[i].mesh.peers[name(j)].alive }

// allAlive reports the first pair that isn't, of nodes that are awake.
func (s *sim) allAlive() (i, j int, ok bool) {
	for i := range s.nodes {
		for j := range s.nodes {
			if i != j && !s.nodes[i].asleep && !s.nodes[j].asleep && !s.alive(i, j) {
				return i, j, false
			}
		}
	}
	return 0, 0, true
}

func (s *sim) mustAllLive(when string) {
	s.t.Helper()
	if i, j, ok := s.allAlive(); !ok {
		s.t.Fatalf("%s: %s takes %s for dead", when, name(i), name(j))
	}
}
