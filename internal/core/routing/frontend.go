package routing

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// Key is what packets of a frontend are told by.
type Key struct {
	// Addr is the destination address; for a node port it is the unspecified
	// address of the family (0.0.0.0 or ::) and stands for every node-port
	// address of the node.
	Addr     netip.Addr
	Protocol catalog.Protocol
	Port     uint16
}

// AnyNode reports whether the key stands for all node-port addresses.
func (k Key) AnyNode() bool { return k.Addr.IsUnspecified() }

// String prints "TCP 10.96.0.1:80", or "TCP *:30080" for a node port.
func (k Key) String() string {
	if !k.AnyNode() {
		return k.Protocol.String() + " " + netip.AddrPortFrom(k.Addr, k.Port).String()
	}
	if k.Addr.Is6() {
		return fmt.Sprintf("%s [*]:%d", k.Protocol, k.Port)
	}
	return fmt.Sprintf("%s *:%d", k.Protocol, k.Port)
}

// Kind says which of a Service's doors a frontend is.
type Kind uint8

// The kinds of frontends.
const (
	ClusterIP Kind = iota
	ExternalIP
	LoadBalancerIP
	NodePort
)

var kindNames = [...]string{"clusterIP", "externalIP", "loadBalancerIP", "nodePort"}

// String gives the name of the Service field that the frontend comes from.
func (k Kind) String() string { return kindNames[k] }

// Origin is where a packet comes from.
type Origin uint8

// The origins. Workload is a pod or guest of the cluster, Node is a process on
// this node, Outside is everybody else.
const (
	Workload Origin = iota
	Node
	Outside
	Origins = 3
)

var originNames = [...]string{"workload", "node", "outside"}

// String names the origin.
func (o Origin) String() string { return originNames[o] }

// Action is what happens to a new connection.
type Action uint8

// The actions: to a backend of one of the two sets, an immediate error for the
// client (TCP RST, ICMP unreachable), or silence.
const (
	ToCluster Action = iota
	ToLocal
	Reject
	Drop
)

var actionNames = [...]string{"cluster", "local", "reject", "drop"}

// String names the action.
func (a Action) String() string { return actionNames[a] }

// Verdict is what a frontend does with packets of one origin.
type Verdict struct {
	Action Action
	// Masquerade asks for this node's address as the source wherever the
	// backend is on another node, so that its answers come back through here.
	// A backend on this node always answers through it and sees the client.
	Masquerade bool
	Reason     Reason // why it is not simply the cluster set
}

// Serves reports whether the verdict leads to a backend.
func (v Verdict) Serves() bool { return v.Action == ToCluster || v.Action == ToLocal }

// Backend is one endpoint on one port. Its identity is its address and port.
type Backend struct {
	netip.AddrPort
	Node  string // "" when unknown
	Zone  string
	Local bool // on the node that this was computed for

	Ready, Serving, Terminating bool
}

// LeftOut is a backend that gets no new connections from any set, and why.
type LeftOut struct {
	Backend
	Reason Reason
}

// Sets are the backends of one Service port in one family. The frontends of
// that port share one value, which nobody changes.
type Sets struct {
	Cluster, Local []Backend // sorted by address and port
	LeftOut        []LeftOut // sorted likewise
}

// Of gives the set that a serving action leads to, nil for the others.
func (s *Sets) Of(a Action) []Backend {
	switch a {
	case ToCluster:
		return s.Cluster
	case ToLocal:
		return s.Local
	}
	return nil
}

// Equal compares by value.
func (s *Sets) Equal(t *Sets) bool {
	return s == t || slices.Equal(s.Cluster, t.Cluster) && slices.Equal(s.Local, t.Local) && slices.Equal(s.LeftOut, t.LeftOut)
}

// Frontend is one address, protocol and port that clients use, and what is done
// with their packets.
type Frontend struct {
	Key
	Kind     Kind
	Service  types.NamespacedName
	UID      types.UID
	Created  time.Time
	PortName string

	*Sets
	Verdicts [Origins]Verdict // by Origin

	Affinity     time.Duration  // 0: none
	Scheduler    string         // of IPVS; "": the data plane's own choice
	SourceRanges []netip.Prefix // who may use a load-balancer address; empty: everybody
}

// Serves reports whether any origin's packets lead to a backend; a frontend that isn't there
// (nil) leads none.
func (f *Frontend) Serves() bool {
	return f != nil && slices.ContainsFunc(f.Verdicts[:], Verdict.Serves)
}

// Backends gives all that the frontend knows, in whatever state and also those that get
// nothing; some of them twice. Nobody may change them. Without sets there are none, nor of nil.
func (f *Frontend) Backends() iter.Seq[*Backend] {
	return func(yield func(*Backend) bool) {
		if f == nil || f.Sets == nil {
			return
		}
		for _, set := range [...][]Backend{f.Cluster, f.Local} {
			for i := range set {
				if !yield(&set[i]) {
					return
				}
			}
		}
		for i := range f.LeftOut {
			if !yield(&f.LeftOut[i].Backend) {
				return
			}
		}
	}
}

// Equal compares by value.
func (f *Frontend) Equal(g *Frontend) bool {
	return f.Key == g.Key && f.Kind == g.Kind && f.Service == g.Service && f.UID == g.UID &&
		f.Created.Equal(g.Created) && f.PortName == g.PortName && f.Verdicts == g.Verdicts &&
		f.Affinity == g.Affinity && f.Scheduler == g.Scheduler && slices.Equal(f.SourceRanges, g.SourceRanges) && f.Sets.Equal(g.Sets)
}

// Before reports whether f has the better claim of two Services on one key. A cluster
// IP comes first: the API gave it to one Service, and nobody may take it by writing it
// among external IPs. Else the Service that was created first has it, and if both say
// the same time (it has the resolution of a second) the one with the smaller UID and
// name, so that every node agrees.
func (f *Frontend) Before(g *Frontend) bool {
	if own, other := f.Kind == ClusterIP, g.Kind == ClusterIP; own != other {
		return own
	}
	if c := f.Created.Compare(g.Created); c != 0 {
		return c < 0
	}
	return cmp.Or(
		strings.Compare(string(f.UID), string(g.UID)),
		strings.Compare(f.Service.Namespace, g.Service.Namespace), strings.Compare(f.Service.Name, g.Service.Name),
	) < 0
}
