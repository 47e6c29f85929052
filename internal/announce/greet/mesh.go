package greet

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// Peer is another node that may announce.
type Peer struct {
	Name string
	// Addresses are where it is greeted; the first each time, all when it is suspected.
	Addresses []netip.Addr
}

// Intervals between greetings: with something to announce, and without.
const (
	Busy = 50 * time.Millisecond
	Calm = 500 * time.Millisecond
)

const (
	// settleTime is how long a node that starts, or was away, waits for peers that it
	// doesn't hear before it acts.
	settleTime = 400 * time.Millisecond
	// awayAfter is how late the thread may come before the node takes itself for one that
	// the others may have given up: less than they need for that.
	awayAfter = 200 * time.Millisecond
	// freshFor is how old a number of ours may be at most that a peer repeats.
	freshFor = time.Second
	// lateMemory is how long a late tick makes judgements milder.
	lateMemory = 5 * time.Second
	// questions that went unanswered before a peer is dead.
	questions = 5
)

// News is what is known of a peer.
type News struct {
	Alive bool
	// Heard is when it was last heard, on the clock of Mesh.Now; negative when it never was.
	Heard time.Duration
	// Word is the last that it said, of a dead one too.
	Word Word
}

// View is all that greetings tell. Nobody changes it.
type View struct {
	// Joined: every living peer was heard since the start or the last absence, or the time
	// for it has passed. Before, this node must neither answer nor take.
	Joined bool
	Peers  map[string]News
}

// Counts are for metrics.
type Counts struct {
	Sent, Received, Lost, Away   uint64
	Malformed, Foreign, NotFresh uint64 // refused
}

// datagram is one to be sent.
type datagram struct {
	to   netip.Addr
	text []byte
}

// mesh is what one node knows by greetings. It is not safe for concurrent use.
type mesh struct {
	self string
	run  uint64
	keys [][]byte // the first signs
	word Word
	// version counts Words; parts are the encoded claims of this one.
	version  uint64
	parts    [][]byte
	interval time.Duration
	peers    map[string]*peer

	settling time.Duration // until then the node waits for its peers
	joined   bool
	late     lateness
	due      time.Duration // the next tick
	greeted  time.Duration // the last time that all were
	changed  bool          // the view is news
	counts   Counts
	out      []datagram
}

func newMesh(self string, run uint64) *mesh {
	if run == 0 {
		run = rand.Uint64() | 1
	}
	return &mesh{self: self, run: run, version: 1, parts: encodeClaims(nil), interval: Busy, peers: map[string]*peer{}, changed: true}
}

// setPeers takes all there are. The first call begins the wait for them.
func (m *mesh) setPeers(now time.Duration, all []Peer) {
	known := map[string]bool{m.self: true}
	for _, p := range all {
		if p.Name == m.self || len(p.Addresses) == 0 {
			continue
		}
		known[p.Name] = true
		if m.peers[p.Name] == nil {
			m.peers[p.Name] = newPeer(p.Name, now)
			m.changed = true
		}
		m.peers[p.Name].addrs = slices.Clone(p.Addresses)
	}
	for name := range m.peers {
		if !known[name] {
			delete(m.peers, name)
			m.changed = true
		}
	}
	if m.settling == 0 {
		m.settling = now + settleTime
	}
}

// say takes what the node says of itself from now on, and tells all at once.
func (m *mesh) say(now time.Duration, w Word) {
	sameClaims := slices.Equal(m.word.Claims, w.Claims)
	m.word = w
	if !sameClaims {
		m.version++
		m.parts = encodeClaims(w.Claims)
	}
	for _, p := range m.sorted() {
		if sameClaims {
			m.greet(p, p.addrs[:1], 0)
		} else {
			m.tell(now, p)
		}
	}
}

// turn does what is due, and gives when the next is.
func (m *mesh) turn(now time.Duration) (due time.Duration) {
	if m.due == 0 {
		m.due = now
	}
	if now >= m.due {
		m.tick(now, now-m.due)
		step := m.interval / 2
		m.due = max(m.due+step, now+step/2)
	}
	return m.due
}

// tick greets and judges; late is how long ago it was to be called.
func (m *mesh) tick(now, late time.Duration) {
	if late >= awayAfter {
		m.away(now) // a stop, and no measure of how late the thread comes while it runs
	} else {
		m.late.note(now, late)
	}
	greeting := now-m.greeted >= m.interval-m.interval/10
	if greeting {
		m.greeted = now
	}
	inTime := late < m.interval/2
	for _, p := range m.sorted() {
		p.age(now)
		silence, limit := now-p.heard, p.limit(m)
		suspected := p.alive && silence > 2*p.interval+p.interval/2+limit.slack/2
		switch {
		case suspected && inTime && silence > limit.death && p.asked >= questions:
			p.alive, p.asked = false, 0
			m.changed = true
			m.counts.Lost++
			m.greet(p, p.addrs, 0)
		case suspected:
			if inTime {
				p.asked++
			}
			m.greet(p, p.addrs, flagAsks)
		case greeting:
			m.greet(p, p.addrs[:1], 0)
			if p.told != m.version && silence < freshFor && now-p.toldAt >= m.interval {
				m.tell(now, p)
			}
		}
	}
	m.join(now)
}

// away is called when this node was not there for so long that others may have taken
// what it holds. What comes from the socket may have waited there: only answers to what
// is sent from now on are life.
func (m *mesh) away(now time.Duration) {
	m.counts.Away++
	m.joined, m.changed = false, true
	m.settling = now + settleTime
	for _, p := range m.peers {
		p.freshFrom, p.nextFrom = p.sent, p.sent
		p.awaited = p.alive
		p.heard = max(p.heard, now-2*p.interval) // suspected soon, not dead at once
		p.asked = 0
	}
}

// join ends the wait for the others.
func (m *mesh) join(now time.Duration) {
	if m.joined || m.settling == 0 || len(m.keys) == 0 {
		return
	}
	for _, p := range m.peers {
		if p.awaited && now < m.settling {
			return
		}
	}
	for _, p := range m.peers {
		p.awaited = false
	}
	m.joined, m.changed = true, true
}

// greet sends a datagram without claims.
func (m *mesh) greet(p *peer, to []netip.Addr, flags byte) {
	m.send(p, to, message{flags: flags, part: noPart, echoRun: p.run, echoSeq: p.sequence})
}

// tell sends the claims.
func (m *mesh) tell(now time.Duration, p *peer) {
	p.toldAt = now
	for i, part := range m.parts {
		m.send(p, p.addrs[:1], message{
			part: uint16(i), parts: uint16(len(m.parts)), claims: part, echoRun: p.run, echoSeq: p.sequence,
		})
	}
}

func (m *mesh) send(p *peer, to []netip.Addr, msg message) {
	if len(m.keys) == 0 {
		return
	}
	for _, a := range to {
		p.sent++
		msg.sender, msg.run, msg.sequence = m.self, m.run, p.sent
		msg.interval, msg.late = m.interval, m.late.worst()
		msg.version, msg.has, msg.links = m.version, p.version, m.word.Links
		if m.word.Ready {
			msg.flags |= flagReady
		}
		if m.word.Leaving {
			msg.flags |= flagLeaving
		}
		m.out = append(m.out, datagram{a, msg.encode(m.keys[0], p.name)})
		m.counts.Sent++
	}
}

// view gives what is known, and that it was taken.
func (m *mesh) view() *View {
	v := &View{Joined: m.joined, Peers: make(map[string]News, len(m.peers))}
	for name, p := range m.peers {
		v.Peers[name] = News{Alive: p.alive, Heard: p.heard, Word: p.word}
	}
	m.changed = false
	return v
}

func (m *mesh) sorted() []*peer {
	out := make([]*peer, 0, len(m.peers))
	for _, name := range slices.Sorted(maps.Keys(m.peers)) {
		out = append(out, m.peers[name])
	}
	return out
}

// lateness remembers the latest ticks of the last seconds, in two halves.
type lateness struct {
	now, before time.Duration
	turn        time.Duration
}

func (l *lateness) note(now, late time.Duration) {
	if now-l.turn >= lateMemory/2 {
		l.before, l.now, l.turn = l.now, 0, now
	}
	l.now = max(l.now, late)
}

func (l *lateness) worst() time.Duration { return max(l.now, l.before) }
