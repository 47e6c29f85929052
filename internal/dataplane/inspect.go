package dataplane

import (
	"cmp"
	"context"
	"net/netip"
	"time"

	"portico.dev/portico/internal/core/routing"
)

// Inspector reads what a Backend, of this process or another, has put into the kernel, and
// changes nothing. It is what `portico dataplane show` and `verify` ask. Each back end has
// one; it lives in the network namespace of the thread that opened it, and may be used by
// several goroutines at once, beside a Backend at work.
type Inspector interface {
	// Contents reads all that is ours and nobody's plan. Where nothing of ours is, it has
	// no Tables. Damage shows as what the kernel would do, not as an error.
	Contents(ctx context.Context) (*Contents, error)
	// Verify compares the kernel with what state asks of a node at site, and says each
	// difference in words, sorted, as Backend.Verify does: nothing is the proof that both
	// agree. A difference that no packet and no later change can meet is none.
	Verify(ctx context.Context, site Site, state State) ([]string, error)
	// Connections counts the open connections of each frontend of contents.
	Connections(ctx context.Context, contents *Contents) (map[routing.Key]int, error)
	// Close lets go of sockets.
	Close() error
}

// Site is what a node's rules depend on apart from a State.
type Site struct {
	Workloads []netip.Prefix // the cluster's ranges of pods and guests
	Own       []netip.Addr   // the node's addresses on portico0, at most one per family
}

// Contents are the rules of one back end as the kernel has them. The kernel knows
// addresses and no names.
type Contents struct {
	Tables        []string       // what of the kernel's is ours, as its own tools call it: "ip portico"
	NodeAddresses []netip.Addr   // where node ports answer, sorted
	Services      []netip.Prefix // ranges of cluster IPs
	Workloads     []netip.Prefix // ranges of pods and guests
	Frontends     []Frontend     // sorted by CompareKeys
	Refused       [2]Refusals    // IPv4, IPv6; nil: this technique doesn't count
}

// Frontend is what the kernel does with packets to one address, protocol and port.
type Frontend struct {
	routing.Key
	Kind    routing.Kind // ExternalIP also for what the kernel has under no other
	Inside  Way          // packets of workloads and of the node itself
	Outside Way          // all others
	// Cluster and Local are what the two sets hold. A number in a Way that is greater than
	// its set's is damage: packets can meet nothing.
	Cluster, Local []Slot
	Affinity       time.Duration
	Guarded        bool           // Admitted alone may come
	Admitted       []netip.Prefix // sorted
}

// Way is where new connections go.
type Way struct {
	Action routing.Action
	Count  int  // of the backends that are drawn from
	Lost   bool // our rules do nothing with them: damage
	// Proxy is where the process listens that takes them and alone knows the backends;
	// invalid where the kernel does it all. Action and Count say nothing then.
	Proxy netip.AddrPort
}

// Slot is one backend that a set leads to.
type Slot struct {
	netip.AddrPort
	Remote  bool // on another node: clients outside come there with this node's address
	Hairpin bool // a connection to itself gets the node's address
}

// CompareKeys sorts frontends by address, port and protocol: node ports come first.
func CompareKeys(a, b routing.Key) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}
