package nftables

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/tracked"
)

var _ dataplane.Inspector = (*Reader)(nil)

// Contents implements dataplane.Inspector: Cluster and Local go by slot.
func (r *Reader) Contents(context.Context) (*dataplane.Contents, error) {
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
	out := &dataplane.Contents{}
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
	slices.SortFunc(out.Frontends, func(a, b dataplane.Frontend) int { return dataplane.CompareKeys(a.Key, b.Key) })
	return out, nil
}

// show describes one frontend that the kernel holds.
func (k *kernel) show(key routing.Key, h *held) dataplane.Frontend {
	i := index(key.Addr)
	f := dataplane.Frontend{Key: key, Kind: routing.ExternalIP, Guarded: h.guarded, Admitted: slices.SortedFunc(slices.Values(h.admitted), comparePrefixes)}
	switch {
	case key.AnyNode():
		f.Kind = routing.NodePort
	case k.ips[i].has(key.Addr):
		f.Kind = routing.ClusterIP
	case k.lbIPs[i].has(key.Addr):
		f.Kind = routing.LoadBalancerIP
	}
	refused := dataplane.Way{Lost: h.refused == none}
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
	for set, into := range []*[]dataplane.Slot{&f.Cluster, &f.Local} {
		have := [2][]netip.AddrPort{h.cluster, h.local}[set]
		if s := k.sessions[i].byID[h.sessionIDs[set]]; s != nil {
			have = s.backends()
		}
		for _, ap := range have {
			*into = append(*into, dataplane.Slot{AddrPort: ap, Remote: k.far[i].has(ap.Addr()), Hairpin: k.near[i].has(ap.Addr())})
		}
	}
	return f
}

func (t target) way() dataplane.Way {
	w := dataplane.Way{Action: routing.ToCluster, Count: t.count}
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

// Connections implements dataplane.Inspector. It reads the whole conntrack table, which
// belongs to all programs of the network namespace.
func (r *Reader) Connections(_ context.Context, c *dataplane.Contents) (map[routing.Key]int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return tracked.Connections(r.flows, c)
}
