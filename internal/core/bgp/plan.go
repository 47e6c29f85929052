package bgp

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/metallb"
)

// Plan is what one node tells its routers.
type Plan struct {
	RouterID netip.Addr
	Sessions []Session          // by peer
	Left     []Left             // by Service and address
	Faults   []announcing.Fault // by kind, name and field
}

// Session is one to a router.
type Session struct {
	Config
	Paths []Path // by prefix
}

// Config is what a session is made of. When it changes, the session begins anew; values
// can be compared.
type Config struct {
	Peer      string // name of the BGPPeer
	Address   netip.Addr
	Port      uint16
	Source    netip.Addr // invalid: the kernel chooses
	VRF       string     // device to bind to, "" for none
	LocalASN  uint32     // told in OPEN and in AS_PATH
	RemoteASN uint32     // 0: any that isn't LocalASN
	IPv4      bool       // IPv4 unicast is offered
	IPv6      bool       // IPv6 unicast is offered
	Hold      time.Duration
	Keepalive time.Duration
	Connect   time.Duration // between two attempts
	MultiHop  bool
	Graceful  bool // graceful restart, RFC 4724
	Password  string
	Secret    metallb.SecretReference // holds the password where it has a name
	BFD       BFD
}

// Internal tells whether the session is inside one AS.
func (c *Config) Internal() bool { return c.RemoteASN == c.LocalASN }

// BFD are the timers of the session that watches the path to the router (RFC 5880). The
// zero value is none.
type BFD struct {
	Receive    time.Duration // fastest that may come in
	Transmit   time.Duration // fastest that goes out
	Multiplier uint8
	Passive    bool  // says nothing before the router has
	MinimumTTL uint8 // of what comes over several hops
}

// Enabled tells whether there is any.
func (b BFD) Enabled() bool { return b.Multiplier != 0 }

// Path is a prefix with what is said about it.
type Path struct {
	Prefix netip.Prefix
	// NextHop is the node's own address where the prefix is of another family than the
	// session. It is invalid otherwise: the session's own address.
	NextHop     netip.Addr
	LocalPref   uint32 // 0: none; never to another AS
	Communities []Community
	Large       []LargeCommunity
	Services    []types.NamespacedName // whose addresses are in the prefix
}

// Reason says why an address isn't announced by this node.
type Reason string

// The reasons, as people read them.
const (
	Excluded        Reason = "the node has the label node.kubernetes.io/exclude-from-external-load-balancers"
	NoAdvertisement Reason = "no BGPAdvertisement selects its pool, the Service and this node"
	NoEndpoint      Reason = "externalTrafficPolicy is Local, and no ready endpoint of its family is on this node"
	Draining        Reason = "the node takes no new workloads (spec.unschedulable), and another node announces it"
	NoPeer          Reason = "none of the peers that the advertisements name speaks with this node in its family"
)

// Left is an address that the node doesn't announce.
type Left struct {
	Service types.NamespacedName
	Address netip.Addr
	Reason  Reason
}

// Decide gives the plan of node in.Self.
func Decide(in announcing.Input) Plan {
	d := &decision{in: in, config: in.Config}
	if d.config == nil {
		d.config = &metallb.Config{}
	}
	if i := slices.IndexFunc(in.Nodes, func(n announcing.Node) bool { return n.Name == in.Self }); i >= 0 {
		d.self = in.Nodes[i]
	} else {
		d.self = announcing.Node{Name: in.Self}
	}
	d.chooseRouterID()
	d.readSessions()
	d.readAdvertisements()
	d.announce()
	slices.SortFunc(d.plan.Faults, func(a, b announcing.Fault) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Problem, b.Problem))
	})
	d.plan.Faults = slices.Compact(d.plan.Faults)
	return d.plan
}

// Peers gives the names of the peers that hear of each announced Service, by name.
func (p *Plan) Peers() map[types.NamespacedName][]string {
	peers := map[types.NamespacedName][]string{}
	for i := range p.Sessions {
		s := &p.Sessions[i]
		for j := range s.Paths {
			for _, service := range s.Paths[j].Services {
				if !slices.Contains(peers[service], s.Peer) {
					peers[service] = append(peers[service], s.Peer)
				}
			}
		}
	}
	return peers
}

// decision is one plan in the making.
type decision struct {
	in     announcing.Input
	config *metallb.Config
	self   announcing.Node
	ads    []advertisement
	rest   []*Plan // of the other nodes that could announce; nil: not asked for yet
	plan   Plan
}

func (d *decision) fault(kind, name, field, problem string) {
	d.plan.Faults = append(d.plan.Faults, announcing.Fault{Kind: kind, Name: name, Field: field, Problem: problem})
}

// address gives the node's own address of a family, invalid when it has none.
func (d *decision) address(v6 bool) netip.Addr {
	for _, a := range d.self.Addresses {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}
