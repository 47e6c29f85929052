package nftables

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// A UDP flow has no end, so conntrack would lead a busy client for ever to where
// its first packet went: to a backend that is gone, or to nobody if it was sent
// before the first endpoint came. Such entries are deleted and the client's next
// packet is a new flow. Which ones they are flowIndex knows; TCP is in ended.go, what began before
// its Service in strays.go.

// doubtUDP has the UDP frontends that a change may make flows stale of. It is told
// of a change before the kernel is.
func (b *Backend) doubtUDP(change routing.Change) {
	b.flows.supersede(change)
	b.doubtAny(slices.Values(change.Removed))
	for _, f := range change.Set {
		if f.Protocol != catalog.UDP {
			continue
		}
		if h := b.kernel.held[f.Key]; h != nil && h.frontend != nil && loses(h.frontend, f) {
			b.doubt[f.Key] = true
		}
	}
}

// doubtAny has the UDP frontends that are removed, or that a full Sync may remove: the
// kernel's, before they are changed, and those that we knew, since somebody else may have
// deleted the kernel's. Later nobody can tell of an address outside the ranges of cluster IPs
// that it was ours, nor of another one that node ports were there: these have all their doors
// in doubt.
func (b *Backend) doubtAny(frontends iter.Seq[routing.Key]) {
	for key := range frontends {
		if key.Protocol != catalog.UDP {
			continue
		}
		b.doubt[key] = true
		for _, d := range doors(key, b.nodes) {
			b.doubt[atDoor(d)] = true
		}
	}
}

// doubtNodePorts has the UDP node ports at the addresses until now, before they change.
func (b *Backend) doubtNodePorts() {
	var ports []routing.Key
	for key := range b.kernel.held {
		if key.AnyNode() {
			ports = append(ports, key)
		}
	}
	b.doubtAny(slices.Values(ports))
}

// servedUDP gives the UDP frontends that lead anywhere, and each door of the node ports, also
// in a table of another shape, which is made anew.
func (r *reading) servedUDP(families [2]*family) (out []routing.Key) {
	for i, f := range families {
		var nodes []netip.Addr
		for _, e := range r[i].elements[nodeAddressesSet] {
			if a, ok := netip.AddrFromSlice([]byte(e.key)); ok {
				nodes = append(nodes, a)
			}
		}
		for _, nodePort := range []bool{false, true} {
			p := plan{nodePort: nodePort}
			for _, set := range []string{p.servicesMap(), p.outsideMap()} {
				for _, e := range r[i].elements[set] {
					key, ok := f.parseFrontendKey(e.key, nodePort)
					if !ok || key.Protocol != catalog.UDP {
						continue
					}
					out = append(out, key)
					if nodePort {
						for _, d := range doors(key, nodes) {
							out = append(out, atDoor(d))
						}
					}
				}
			}
		}
	}
	return out
}

// loses reports whether a backend that may have flows loses them by the change.
func loses(old, f *routing.Frontend) bool {
	if old.Sets == f.Sets && old.Serves() == f.Serves() {
		return false
	}
	for b := range old.Backends() {
		if !keeps(f, b.AddrPort) {
			return true
		}
	}
	return false
}

// keeps reports whether flows to a backend may go on: it is in a set, or it was
// left out but still serves (DP-11), or it exists and nobody else serves.
func keeps(f *routing.Frontend, backend netip.AddrPort) bool {
	if inSets(f, backend) {
		return true
	}
	b := leftOut(f, backend)
	return b != nil && (b.Serving || !f.Serves())
}

// inSets and leftOut search what routing has sorted: a Service may have thousands
// of backends.
func inSets(f *routing.Frontend, backend netip.AddrPort) bool {
	_, cluster := slices.BinarySearchFunc(f.Cluster, backend, compareAddrPort)
	_, local := slices.BinarySearchFunc(f.Local, backend, compareAddrPort)
	return cluster || local
}

func leftOut(f *routing.Frontend, backend netip.AddrPort) *routing.Backend {
	i, found := slices.BinarySearchFunc(f.LeftOut, backend, func(b routing.LeftOut, ap netip.AddrPort) int { return b.Compare(ap) })
	if !found {
		return nil
	}
	return &f.LeftOut[i].Backend
}

// knows reports whether a backend is there in any state.
func knows(f *routing.Frontend, backend netip.AddrPort) bool {
	return inSets(f, backend) || leftOut(f, backend) != nil
}

// door is where a client's packets go: a frontend's address and port, of a node
// port one of the node's addresses.
type door = netip.AddrPort

// doors gives the doors of a frontend.
func doors(key routing.Key, nodes []netip.Addr) (out []door) {
	if !key.AnyNode() {
		return []door{netip.AddrPortFrom(key.Addr, key.Port)}
	}
	for _, a := range nodes {
		if a.Is4() == key.Addr.Is4() {
			out = append(out, netip.AddrPortFrom(a, key.Port))
		}
	}
	return out
}

// atDoor is the key of a UDP frontend with the door's own address.
func atDoor(d door) routing.Key {
	return routing.Key{Addr: d.Addr(), Protocol: catalog.UDP, Port: d.Port()}
}

// behind gives the frontend that a door is, nil when there is none, and its key.
func (b *Backend) behind(d door) (key routing.Key, f *routing.Frontend) {
	key = atDoor(d)
	if h := b.kernel.held[key]; h == nil && slices.Contains(b.nodes, key.Addr) {
		key.Addr = b.families[index(key.Addr)].any
	}
	if h := b.kernel.held[key]; h != nil {
		f = h.frontend
	}
	return key, f
}

// endFlows ends the flows that are stale since the last call. What the index
// knows costs the flows of the frontends in doubt; without it everything
// is listed, which costs what the machine's conntrack table holds.
func (b *Backend) endFlows() error {
	if len(b.doubt) == 0 && !b.doubtAll {
		return nil
	}
	err := errIndexLost
	if !b.doubtAll {
		ends := map[door]*routing.Frontend{}
		for key := range b.doubt {
			for _, d := range doors(key, b.nodes) {
				_, ends[d] = b.behind(d)
			}
		}
		err = b.flows.end(ends)
	}
	if errors.Is(err, errIndexLost) {
		err = b.listFlows()
	}
	if err != nil {
		b.doubtAll = true
		return err
	}
	b.doubtAll, b.doubt = false, map[routing.Key]bool{}
	return nil
}

// listFlows reads all UDP entries, deletes the stale ones and makes the index of
// the others anew.
func (b *Backend) listFlows() error {
	err := b.flows.relist(func(fl *flow) (ours, stale bool) {
		key, f := b.behind(fl.door)
		if f != nil {
			return true, !keeps(f, fl.backend)
		}
		own := atDoor(fl.door) // key may be a node port's
		inRange := func(p netip.Prefix) bool { return p.Contains(own.Addr) }
		return false, b.doubt[key] || b.doubt[own] || slices.ContainsFunc(b.services, inRange)
	})
	if err != nil {
		return fmt.Errorf("list UDP flows: %w", err)
	}
	return nil
}

// FlowCounts say what ending stale UDP flows has cost so far.
type FlowCounts struct {
	Known   int // flows in the index; 0 also when the index is lost
	Indexed bool
	// Lists are the walks over the whole conntrack table, Listed the entries that
	// they gave, Asked the entries that were asked for by tuple.
	Lists, Listed, Asked, Deleted uint64
}

// FlowCounts gives the counts of this run. It may be called at any time.
func (b *Backend) FlowCounts() FlowCounts { return b.flows.stats() }
