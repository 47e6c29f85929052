package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

// Contents are our tables as the kernel has them. It knows addresses and no names.
type Contents struct {
	Tables        []string       // "ip portico"
	NodeAddresses []netip.Addr   // where node ports answer
	Services      []netip.Prefix // ranges of cluster IPs
	Workloads     []netip.Prefix // ranges of pods and guests
	Frontends     []Frontend     // by address, protocol and port, node ports first
	Refused       [2]dataplane.Refusals
}

// Frontend is what the kernel does with packets to one address, protocol and port.
type Frontend struct {
	routing.Key
	Kind    routing.Kind // ExternalIP also for what the kernel has under no other
	Inside  Way          // packets of workloads and of the node itself
	Outside Way          // all others
	// Cluster and Local are what the two sets hold, by slot. A number in a Way that is
	// greater than its set's is damage: packets can meet an empty slot.
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
}

// Slot is one backend that a set leads to.
type Slot struct {
	netip.AddrPort
	Remote  bool // on another node: clients outside come there with this node's address
	Hairpin bool // a connection to itself gets the node's address
}

// Contents reads our tables whole.
func (r *Reader) Contents() (*Contents, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lengths, err := r.conn.lengths()
	if err != nil {
		return nil, err
	}
	families := newFamilies(limits{lengths: lengths})
	read, err := r.conn.read(families)
	if err != nil {
		return nil, err
	}
	k := newKernel(families)
	k.adopt(read)
	out := &Contents{}
	for i, f := range families {
		t := &read[i]
		if !t.exists {
			continue
		}
		out.Tables = append(out.Tables, f.name+" "+Table)
		out.NodeAddresses = append(out.NodeAddresses, k.nodes[i].held()...)
		out.Services = append(out.Services, prefixesOf(t.elements[serviceRangesSet])...)
		out.Workloads = append(out.Workloads, prefixesOf(t.elements[workloadRangesSet])...)
		out.Refused[i] = f.refusals(t.rules)
	}
	slices.SortFunc(out.NodeAddresses, netip.Addr.Compare)
	for key, h := range k.held {
		out.Frontends = append(out.Frontends, k.show(key, h))
	}
	slices.SortFunc(out.Frontends, func(a, b Frontend) int { return compareKeys(a.Key, b.Key) })
	return out, nil
}

func compareKeys(a, b routing.Key) int {
	if c := netip.AddrPortFrom(a.Addr, a.Port).Compare(netip.AddrPortFrom(b.Addr, b.Port)); c != 0 {
		return c
	}
	return int(a.Protocol) - int(b.Protocol)
}

// show describes one frontend that the kernel holds.
func (k *kernel) show(key routing.Key, h *held) Frontend {
	i := index(key.Addr)
	f := Frontend{Key: key, Kind: routing.ExternalIP, Guarded: h.guarded, Admitted: slices.SortedFunc(slices.Values(h.admitted), comparePrefixes)}
	switch {
	case key.AnyNode():
		f.Kind = routing.NodePort
	case k.ips[i].has(key.Addr):
		f.Kind = routing.ClusterIP
	case k.lbIPs[i].has(key.Addr):
		f.Kind = routing.LoadBalancerIP
	}
	refused := Way{Lost: h.refused == none}
	switch h.refused {
	case refuse:
		refused.Action = routing.Reject
	case discard:
		refused.Action = routing.Drop
	}
	f.Inside, f.Outside = refused, refused
	if h.inside.kind != nowhere {
		f.Inside = h.inside.way()
	}
	switch h.outside.kind {
	case nowhere:
		f.Outside = f.Inside
	case leave:
	default:
		f.Outside = h.outside.way()
	}
	f.Affinity = time.Duration(max(h.inside.affinity, h.outside.affinity)) * time.Second
	for set, into := range []*[]Slot{&f.Cluster, &f.Local} {
		have := [2][]netip.AddrPort{h.cluster, h.local}[set]
		if s := k.sessions[i].byID[h.sessionIDs[set]]; s != nil {
			have = s.backends()
		}
		for _, ap := range have {
			*into = append(*into, Slot{AddrPort: ap, Remote: k.far[i].has(ap.Addr()), Hairpin: k.near[i].has(ap.Addr())})
		}
	}
	return f
}

func (t target) way() Way {
	w := Way{Action: routing.ToCluster, Count: t.count}
	if t.kind == local || t.kind == nodeLocal {
		w.Action = routing.ToLocal
	}
	return w
}

// backends gives a session's backends by slot; an invalid one for a slot whose handle
// has none.
func (s *session) backends() []netip.AddrPort {
	of := make(map[handle]netip.AddrPort, len(s.handles))
	for ap, h := range s.handles {
		of[h] = ap
	}
	out := make([]netip.AddrPort, len(s.slots))
	for i, h := range s.slots {
		out[i] = of[h]
	}
	return out
}

// prefixesOf gives the prefixes that an interval set's elements make up.
func prefixesOf(elements []element) (out []netip.Prefix) {
	ends := slices.Clone(elements)
	slices.SortFunc(ends, func(a, b element) int {
		if a.key != b.key {
			if a.key < b.key {
				return -1
			}
			return 1
		}
		return 0
	})
	for n, e := range ends {
		first, ok := netip.AddrFromSlice([]byte(e.key))
		if e.end || !ok {
			continue
		}
		var after netip.Addr // invalid: the end of the address space
		if n+1 < len(ends) {
			after, _ = netip.AddrFromSlice([]byte(ends[n+1].key))
		}
		out = append(out, cover(first, after)...)
	}
	return out
}

// cover gives the fewest prefixes for the addresses from first up to after.
func cover(first, after netip.Addr) (out []netip.Prefix) {
	for first.IsValid() && (!after.IsValid() || first.Less(after)) {
		p := netip.PrefixFrom(first, first.BitLen())
		for p.Bits() > 0 {
			wider := netip.PrefixFrom(first, p.Bits()-1)
			next := lastOf(wider).Next()
			if wider.Masked().Addr() != first || after.IsValid() && (!next.IsValid() || after.Less(next)) {
				break
			}
			p = wider
		}
		out = append(out, p)
		first = lastOf(p).Next()
	}
	return out
}

// Connections counts the tracked connections of each frontend. It reads the whole
// conntrack table, which belongs to all programs of the network namespace.
func (r *Reader) Connections(c *Contents) (map[routing.Key]int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	flows, err := r.flows.Dump(nil)
	if err != nil {
		return nil, fmt.Errorf("list conntrack entries: %w", err)
	}
	known := make(map[routing.Key]bool, len(c.Frontends))
	for i := range c.Frontends {
		known[c.Frontends[i].Key] = true
	}
	out := map[routing.Key]int{}
	for i := range flows {
		to := &flows[i].TupleOrig
		key := routing.Key{Addr: to.IP.DestinationAddress.Unmap(), Protocol: catalog.Protocol(to.Proto.Protocol), Port: to.Proto.DestinationPort}
		if !known[key] && slices.Contains(c.NodeAddresses, key.Addr) {
			if key.Addr = netip.IPv4Unspecified(); to.IP.DestinationAddress.Unmap().Is6() {
				key.Addr = netip.IPv6Unspecified()
			}
		}
		if known[key] && flows[i].Status.DstNAT() {
			out[key]++
		}
	}
	return out, nil
}
