package bgp

import (
	"cmp"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"portico.dev/portico/internal/announce/bgp/bfd"
	core "portico.dev/portico/internal/core/bgp"
)

// Phase of a session.
type Phase string

// The three that matter to people.
const (
	Connecting  Phase = "Connecting"
	Opening     Phase = "Opening"
	Established Phase = "Established"
)

// peer is one session.
type peer struct {
	config core.Config // with the password

	// The following are guarded by Speaker.mu.
	watch      *bfd.Session // nil: none; Run alone changes it
	status     Phase
	since      time.Time
	why        string // why it isn't established
	broken     bool   // to be begun anew at once
	refused    bool   // ended for good: the peer isn't who it should be
	remoteASN  uint32
	routerID   netip.Addr
	ipv4, ipv6 bool // accepted by the peer
	watched    bfd.State
	cut        bool // BFD saw the path fail, and the session ends for that
}

// takes tells whether the peer takes the family of a prefix.
func (p *peer) takes(prefix netip.Prefix) bool {
	if prefix.Addr().Is6() {
		return p.ipv6
	}
	return p.ipv4
}

// change takes what gobgp says of the session.
func (p *peer) change(state *apiutil.PeerState, now time.Time, m *moves, log *slog.Logger) {
	before := p.status
	switch state.SessionState {
	case bgp.BGP_FSM_ESTABLISHED:
		p.status, p.why = Established, ""
		p.remoteASN, p.routerID = state.PeerASN, state.RouterID
		p.ipv4, p.ipv6 = families(state.RemoteCap)
		if p.config.RemoteASN == 0 && p.remoteASN == p.config.LocalASN {
			p.refused = true
			p.why = fmt.Sprintf("the router is of AS %d as this node is, and dynamicASN is external", p.remoteASN)
		}
	case bgp.BGP_FSM_OPENSENT, bgp.BGP_FSM_OPENCONFIRM:
		p.status = Opening
	default:
		p.status = Connecting
	}
	if p.status == before {
		return
	}
	if before == Established {
		p.why = cmp.Or(p.why, "the session ended: "+state.DisconnectMessage)
		p.broken = !p.refused && (p.broken || now.Sub(p.since) >= settled)
		m.lost(p.config.Peer, p.why, p.cut)
		log.Warn("BGP session lost", "peer", p.config.Peer, "address", p.config.Address, "reason", p.why)
	}
	if p.status == Established {
		p.cut = false
		m.established(p.config.Peer)
		log.Info("BGP session established", "peer", p.config.Peer, "address", p.config.Address, "asn", p.remoteASN)
	}
	p.since = now
}

// families gives those that the peer takes. One that says nothing of them takes IPv4
// (RFC 4760, section 8).
func families(capabilities []bgp.ParameterCapabilityInterface) (ipv4, ipv6 bool) {
	said := false
	for _, c := range capabilities {
		if mp, ok := c.(*bgp.CapMultiProtocol); ok {
			said = true
			ipv4 = ipv4 || mp.CapValue == bgp.RF_IPv4_UC
			ipv6 = ipv6 || mp.CapValue == bgp.RF_IPv6_UC
		}
	}
	return ipv4 || !said, ipv6
}

// watchPaths has BFD look at the paths to the peers with sessions, and at no others: a
// router that runs FRR makes its side anew when BGP comes up.
func (s *Speaker) watchPaths() []error {
	s.mu.Lock()
	var begin, end []*peer
	for _, p := range s.peers {
		if p.status != Established && p.watch != nil {
			end = append(end, p)
		} else if p.status == Established && p.watch == nil && p.config.BFD.Enabled() {
			begin = append(begin, p)
		}
	}
	s.mu.Unlock()
	for _, p := range end {
		s.unwatch(p)
	}
	var problems []error
	for _, p := range begin {
		if err := s.watch(p); err != nil {
			problems = append(problems, fmt.Errorf("BGPPeer %s: BFD: %w", p.config.Peer, err))
		}
	}
	return problems
}

func (s *Speaker) watch(p *peer) error {
	c := &p.config
	s.mu.Lock()
	p.watched = bfd.Down
	s.mu.Unlock()
	session, err := s.bfd.Watch(bfd.Config{
		Peer: c.Address, Local: c.Source, Device: c.VRF, MultiHop: c.MultiHop || c.Internal() && !onLink(c.Address),
		Receive: c.BFD.Receive, Transmit: c.BFD.Transmit, Multiplier: c.BFD.Multiplier,
		Passive: c.BFD.Passive, MinimumTTL: c.BFD.MinimumTTL,
	}, func(state bfd.State, why bfd.Diagnostic) { s.pathChanged(p, state, why) })
	s.mu.Lock()
	p.watch = session
	s.mu.Unlock()
	return err
}

func (s *Speaker) unwatch(p *peer) {
	s.mu.Lock()
	session := p.watch
	p.watch = nil
	s.mu.Unlock()
	if session != nil {
		session.Close()
	}
}

// onLink tells whether an address is in a network of one of the node's links.
func onLink(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(n net.Addr) bool {
		p, err := netip.ParsePrefix(n.String())
		return err == nil && p.Contains(a)
	})
}

// pathChanged hears of BFD. When it fails after it was up, so does the session.
func (s *Speaker) pathChanged(p *peer, state bfd.State, why bfd.Diagnostic) {
	s.mu.Lock()
	// FRR makes its side anew once more a moment after BGP came up.
	anew := why == bfd.NeighborDown && s.Now().Sub(p.since) < settled
	lost := p.watched == bfd.Up && state == bfd.Down && p.status == Established && !anew
	if lost {
		p.why = "BFD: " + why.String()
	}
	p.watched = state
	p.broken, p.cut = p.broken || lost, p.cut || lost
	s.mu.Unlock()
	s.Log.Info("BFD", "peer", p.config.Peer, "address", p.config.Address, "state", state, "reason", why)
	s.poke()
	s.Changed()
}

// heard takes what gobgp says in its log alone: why a session can't be opened.
func (s *Speaker) heard(address, message, problem string) {
	s.mu.Lock()
	for _, p := range s.peers {
		if p.config.Address.String() == address && p.status != Established {
			p.why = explain(&p.config, message, problem)
		}
	}
	s.mu.Unlock()
	s.Changed()
}

// explain makes a sentence of it that says what to do.
func explain(c *core.Config, message, problem string) string {
	router := netip.AddrPortFrom(c.Address, c.Port)
	switch {
	case message == sentNotification || message == receivedNotification:
		return fmt.Sprintf("%s refuses the session, or it was refused: %s; compare the AS numbers (here %d, there %d) and the router IDs of both sides", router, problem, c.LocalASN, c.RemoteASN)
	case isTimeout(problem) && c.Password != "":
		return fmt.Sprintf("%s doesn't answer: the password differs or the router has none (TCP then drops everything, RFC 2385), or a firewall does, or it is away", router)
	case isTimeout(problem):
		return fmt.Sprintf("%s doesn't answer: it is away, or a firewall drops TCP, or it wants a password", router)
	default:
		return fmt.Sprintf("%s: %s", router, problem)
	}
}
