package greet

import (
	"net/netip"
	"slices"
	"time"
)

// peer is what a mesh knows of one other node.
type peer struct {
	name  string
	addrs []netip.Addr

	// What it sent.
	run, sequence uint64 // of the last accepted datagram
	former        uint64 // the run before
	heard         time.Duration
	alive         bool
	awaited       bool // it must be heard before this node acts
	asked         int  // questions since it was suspected
	interval      time.Duration
	late          time.Duration
	word          Word
	version       uint64 // of word.Claims; 0: those of its run aren't here yet
	assembling    assembly

	// What it was sent.
	sent uint64 // the last sequence number
	told uint64 // the version of our claims that it says it has
	// toldAt is when they were sent last.
	toldAt time.Duration
	// Numbers above freshFrom were sent within the last second; nextFrom is the next one,
	// since turned.
	freshFrom, nextFrom uint64
	turned              time.Duration
	answered            time.Duration // to something that wasn't fresh
}

// assembly collects the parts of one version of claims.
type assembly struct {
	version uint64
	parts   [][]byte
	missing int
}

func newPeer(name string, now time.Duration) *peer {
	return &peer{name: name, interval: Busy, awaited: true, heard: -1, turned: now, answered: -time.Hour}
}

// age lets numbers that were sent become old.
func (p *peer) age(now time.Duration) {
	if now-p.turned >= freshFor/2 {
		p.freshFrom, p.nextFrom, p.turned = p.nextFrom, p.sent, now
	}
}

type limit struct{ slack, death time.Duration }

// limit says how much silence is death. A node whose thread comes late, or a judge whose
// own does, needs more.
func (p *peer) limit(m *mesh) limit {
	slack := min(3*max(p.late, m.late.worst()), 10*p.interval)
	return limit{slack, 5*p.interval + slack}
}

// answerPause bounds answers to what isn't fresh: a recording played back must not make
// more traffic than it is.
const answerPause = 5 * time.Millisecond

// receive takes a datagram.
func (m *mesh) receive(now time.Duration, text []byte) {
	m.counts.Received++
	msg, err := decode(text)
	if err != nil {
		m.counts.Malformed++
		return
	}
	p := m.peers[msg.sender]
	if p == nil || !msg.signedBy(m.keys, m.self) {
		m.counts.Foreign++
		return
	}
	isFresh := msg.echoRun == m.run && msg.echoSeq > p.freshFrom && msg.echoSeq <= p.sent
	switch {
	case msg.run == p.former || msg.run == p.run && msg.sequence <= p.sequence:
		m.counts.NotFresh++
	case !isFresh:
		m.counts.NotFresh++
		if now-p.answered >= answerPause {
			p.answered = now
			m.send(p, p.addrs[:1], message{part: noPart, echoRun: msg.run, echoSeq: msg.sequence})
		}
	default:
		m.accept(now, p, msg)
	}
}

// accept takes what is proven to come from the peer, and lately.
func (m *mesh) accept(now time.Duration, p *peer, msg *message) {
	anew := msg.run != p.run
	if anew { // it has started anew; its former claims stand until it says others
		p.former, p.run, p.version = p.run, msg.run, 0
		p.assembling = assembly{}
	}
	p.sequence, p.heard, p.asked = msg.sequence, now, 0
	p.interval = max(min(msg.interval, Calm), Busy)
	p.late, p.told = msg.late, msg.has
	if w := (Word{Ready: msg.flags&flagReady != 0, Leaving: msg.flags&flagLeaving != 0, Links: msg.links}); w.Ready != p.word.Ready ||
		w.Leaving != p.word.Leaving || !slices.Equal(w.Links, p.word.Links) {
		p.word.Ready, p.word.Leaving, p.word.Links = w.Ready, w.Leaving, w.Links
		m.changed = true
	}
	complete := msg.part != noPart && msg.version != p.version && m.assemble(p, msg)
	// Who comes lives when its claims are known: it may hold what we would give away.
	if p.version == msg.version {
		if !p.alive {
			p.alive, m.changed = true, true
		}
		p.awaited = false
	}
	switch {
	case anew:
		m.tell(now, p)
	case complete, msg.flags&flagAsks != 0:
		m.greet(p, p.addrs[:1], 0)
	}
}

// assemble takes a part of a version of claims, and tells whether all are here now.
func (m *mesh) assemble(p *peer, msg *message) bool {
	a := &p.assembling
	if a.version != msg.version || len(a.parts) != int(msg.parts) {
		*a = assembly{msg.version, make([][]byte, msg.parts), int(msg.parts)}
	}
	if a.parts[msg.part] == nil {
		// Not nil, and not the buffer that the next datagram comes into.
		a.parts[msg.part] = append([]byte{}, msg.claims...)
		a.missing--
	}
	if a.missing > 0 {
		return false
	}
	claims, err := decodeClaims(a.parts)
	p.assembling = assembly{}
	if err != nil {
		m.counts.Malformed++
		return false
	}
	p.version, m.changed = msg.version, true
	p.word.Claims = claims
	return true
}
