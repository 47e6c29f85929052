package bgp

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"k8s.io/apimachinery/pkg/types"

	core "portico.dev/portico/internal/core/bgp"
)

// State is what people ask of the node's BGP.
type State struct {
	RouterID string      `json:"routerID,omitempty"`
	Peers    []PeerState `json:"peers,omitempty"`
	Left     []LeftOut   `json:"notAnnounced,omitempty"`
	Problems []string    `json:"problems,omitempty"`
}

// PeerState is one session.
type PeerState struct {
	Peer      string    `json:"peer"`
	Address   string    `json:"address"`
	Status    Phase     `json:"status"`
	Since     time.Time `json:"since"`
	Why       string    `json:"why,omitempty"` // not established
	LocalASN  uint32    `json:"localASN"`
	RemoteASN uint32    `json:"remoteASN,omitempty"`
	RouterID  string    `json:"routerID,omitempty"` // the peer's
	Families  []string  `json:"families,omitempty"` // that both sides have
	BFD       string    `json:"bfd,omitempty"`
	// Announced is what the peer was told; Refused what it can't be told, for it doesn't
	// take the family.
	Announced []netip.Prefix `json:"announced,omitempty"`
	Refused   []netip.Prefix `json:"refused,omitempty"`
	Updates   uint64         `json:"updatesSent"`
	Received  uint64         `json:"routesRefused"` // that the peer sent, and that aren't used
}

// LeftOut is an address that this node doesn't announce.
type LeftOut struct {
	Service types.NamespacedName `json:"service"`
	Address netip.Addr           `json:"address"`
	Reason  core.Reason          `json:"reason"`
}

// State tells how things are now.
func (s *Speaker) State() State {
	s.mu.Lock()
	b, plan := s.server, s.plan
	var state State
	for _, err := range s.problems {
		state.Problems = append(state.Problems, err.Error())
	}
	var peers []PeerState
	for _, p := range s.peers {
		peers = append(peers, p.state(plan))
	}
	s.mu.Unlock()
	slices.SortFunc(peers, func(a, b PeerState) int { return strings.Compare(a.Peer, b.Peer) })
	state.Peers = peers
	if plan != nil {
		state.RouterID = plan.RouterID.String()
		for _, l := range plan.Left {
			state.Left = append(state.Left, LeftOut(l))
		}
		for _, f := range plan.Faults {
			state.Problems = append(state.Problems, f.Error())
		}
	}
	if b != nil {
		// A server that ends meanwhile has nothing to tell.
		_ = b.ListPeer(context.Background(), &api.ListPeerRequest{}, func(p *api.Peer) { count(peers, p) })
	}
	return state
}

// state tells all but the counters.
func (p *peer) state(plan *core.Plan) PeerState {
	c := &p.config
	st := PeerState{
		Peer: c.Peer, Address: netip.AddrPortFrom(c.Address, c.Port).String(), Status: p.status, Since: p.since, Why: p.why,
		LocalASN: c.LocalASN, RemoteASN: c.RemoteASN,
	}
	if p.watch != nil {
		st.BFD = p.watched.String()
	}
	if p.status != Established {
		return st
	}
	st.RemoteASN, st.RouterID = p.remoteASN, p.routerID.String()
	if p.ipv4 && c.IPv4 {
		st.Families = append(st.Families, "IPv4")
	}
	if p.ipv6 && c.IPv6 {
		st.Families = append(st.Families, "IPv6")
	}
	i := slices.IndexFunc(plan.Sessions, func(s core.Session) bool { return s.Peer == c.Peer })
	if i < 0 {
		return st
	}
	for _, path := range plan.Sessions[i].Paths {
		if p.takes(path.Prefix) {
			st.Announced = append(st.Announced, path.Prefix)
		} else {
			st.Refused = append(st.Refused, path.Prefix)
		}
	}
	return st
}

// count adds the counters.
func count(peers []PeerState, p *api.Peer) {
	for i := range peers {
		addr, err := netip.ParseAddrPort(peers[i].Address)
		if err != nil || addr.Addr().String() != p.GetState().GetNeighborAddress() {
			continue
		}
		peers[i].Updates = p.GetState().GetMessages().GetSent().GetUpdate()
		for _, family := range p.GetAfiSafis() {
			peers[i].Received += family.GetState().GetReceived()
		}
	}
}
