package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/server"

	core "portico.dev/portico/internal/core/bgp"
)

const (
	// restart is how long a peer keeps our routes while we are away: the time that most
	// routers take by default.
	restart = 120 * time.Second
	// settled is how long a session must have lived to be begun anew at once when it breaks;
	// others wait gobgp's five seconds, so that two that quarrel don't spin.
	settled = 3 * time.Second
	// multiHopTTL reaches any router; gobgp's sockets have 1 otherwise.
	multiHopTTL = 255
	// untried is why a session that has just begun isn't established.
	untried = "not tried yet"
)

// start makes a server if there is none. It listens nowhere.
func (s *Speaker) start(plan *core.Plan) error {
	if s.running() {
		return nil
	}
	log := slog.New(&listener{next: s.Log.Handler(), heard: s.heard})
	b := server.NewBgpServer(server.LoggerOption(log, nil))
	go b.Serve() // StopBgp waits for it
	ctx := context.Background()
	err := b.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: plan.Sessions[0].LocalASN, RouterId: plan.RouterID.String(), ListenPort: -1,
	}})
	if err == nil {
		err = b.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnPeerUpdate: s.happened}, server.WatchPeer())
	}
	s.routerID, s.policy = plan.RouterID, ""
	s.paths, s.groups = map[netip.Prefix]announced{}, map[string]*group{}
	s.mu.Lock()
	s.server = b
	s.mu.Unlock()
	if err != nil {
		s.stop(false)
		return fmt.Errorf("start BGP with router ID %s: %w", plan.RouterID, err)
	}
	return nil
}

// stop ends all sessions: graceful, so that peers which agreed to that keep the routes.
func (s *Speaker) stop(graceful bool) {
	s.mu.Lock()
	b, peers := s.server, s.peers
	s.server, s.peers = nil, map[string]*peer{}
	s.mu.Unlock()
	if b == nil {
		return
	}
	// First BGP: a router that heard the path go down by BFD would drop what it keeps.
	if err := b.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: graceful}); err != nil {
		s.Log.Warn("BGP didn't stop cleanly", "err", err)
	}
	b.Stop()
	for _, p := range peers {
		s.unwatch(p)
	}
	s.Changed()
}

// unfit gives the peers that must end, for they are wanted otherwise or not at all, and
// those whose session broke.
func (s *Speaker) unfit(configs map[string]core.Config) (gone, broken []*peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, p := range s.peers {
		if c, ok := configs[name]; !ok || c != p.config {
			gone = append(gone, p)
		} else if p.broken {
			broken = append(broken, p)
		}
	}
	return gone, broken
}

func (s *Speaker) remove(p *peer) error {
	s.mu.Lock()
	delete(s.peers, p.config.Peer)
	s.mu.Unlock()
	defer s.unwatch(p)
	return s.end(p)
}

func (s *Speaker) end(p *peer) error {
	err := s.server.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: p.config.Address.String()})
	if err != nil {
		return fmt.Errorf("BGPPeer %s: end the session: %w", p.config.Peer, err)
	}
	return nil
}

func (s *Speaker) begin(p *peer) error {
	if err := s.server.AddPeer(context.Background(), &api.AddPeerRequest{Peer: settings(p.config)}); err != nil {
		return fmt.Errorf("BGPPeer %s: begin a session: %w", p.config.Peer, err)
	}
	return nil
}

// renew begins a broken session anew. gobgp would by itself, but later, and then without
// saying that the kernel forwarded meanwhile: a router that kept routes would drop them.
func (s *Speaker) renew(p *peer) error {
	if err := s.end(p); err != nil {
		return err
	}
	s.mu.Lock()
	if p.status == Established { // gobgp hasn't said yet that it ended
		s.moves.lost(p.config.Peer, p.why, p.cut)
	}
	p.broken, p.status, p.since = false, Connecting, s.Now()
	s.mu.Unlock()
	return s.begin(p)
}

// refuse ends the sessions with peers that aren't who they should be. gobgp can't be told
// to take any AS number but one.
func (s *Speaker) refuse() (problems []error) {
	s.mu.Lock()
	var peers []*peer
	for _, p := range s.peers {
		if p.refused && p.status == Established {
			peers = append(peers, p)
		}
	}
	s.mu.Unlock()
	for _, p := range peers {
		err := s.server.DisablePeer(context.Background(), &api.DisablePeerRequest{Address: p.config.Address.String(), Communication: "wrong AS number"})
		if err != nil {
			problems = append(problems, fmt.Errorf("BGPPeer %s: refuse the session: %w", p.config.Peer, err))
		}
	}
	return problems
}

// add begins a session that isn't there.
func (s *Speaker) add(c core.Config) error {
	if s.peer(c.Peer) != nil {
		return nil
	}
	p := &peer{config: c, status: Connecting, since: s.Now(), why: untried}
	if err := s.begin(p); err != nil {
		return err
	}
	s.mu.Lock()
	s.peers[c.Peer] = p
	s.mu.Unlock()
	return nil
}

// settings gives a session as gobgp wants it.
func settings(c core.Config) *api.Peer {
	p := &api.Peer{
		Conf: &api.PeerConf{
			NeighborAddress: c.Address.String(), PeerAsn: c.RemoteASN, LocalAsn: c.LocalASN, AuthPassword: c.Password,
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: uint64(c.Connect / time.Second), HoldTime: uint64(c.Hold / time.Second), KeepaliveInterval: uint64(c.Keepalive / time.Second),
		}},
		Transport:    &api.Transport{RemotePort: uint32(c.Port), BindInterface: c.VRF},
		EbgpMultihop: &api.EbgpMultihop{Enabled: c.MultiHop, MultihopTtl: multiHopTTL},
		// We are always the one who restarts: the kernel forwarded meanwhile, and saying so
		// to a peer that keeps nothing does no harm. There is no route of others to wait
		// for, hence the short deferral.
		GracefulRestart: &api.GracefulRestart{
			Enabled: c.Graceful, RestartTime: uint32(restart / time.Second), LocalRestarting: c.Graceful, DeferralTime: 1,
		},
	}
	if c.Source.IsValid() {
		p.Transport.LocalAddress = c.Source.String()
	}
	for _, f := range []struct {
		afi     api.Family_Afi
		offered bool
	}{{api.Family_AFI_IP, c.IPv4}, {api.Family_AFI_IP6, c.IPv6}} {
		if f.offered {
			p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{
				Config:            &api.AfiSafiConfig{Family: &api.Family{Afi: f.afi, Safi: api.Family_SAFI_UNICAST}, Enabled: true},
				MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: c.Graceful}},
			})
		}
	}
	return p
}

// happened hears of a session's change from gobgp.
func (s *Speaker) happened(event *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
	if event.Type != apiutil.PEER_EVENT_STATE {
		return
	}
	s.mu.Lock()
	for _, p := range s.peers {
		if p.config.Address == event.Peer.State.NeighborAddress {
			p.change(&event.Peer.State, s.Now(), s.moves, s.Log)
		}
	}
	s.mu.Unlock()
	s.poke()
}
