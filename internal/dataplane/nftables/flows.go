package nftables

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// A UDP flow has no end, so conntrack would lead a busy client for ever to where
// its first packet went: to a backend that is gone, or to nobody if it was sent
// before the first endpoint came. Such entries are deleted and the client's next
// packet is a new flow. TCP is left alone: its ends close it.

// udpDoubt gives the UDP frontends whose flows a change may make stale, before
// the change is planned. Listing conntrack costs what its table holds, so it is
// done only when there is one.
func (k *kernel) udpDoubt(change routing.Change, serviceRanges []netip.Prefix) map[routing.Key]bool {
	doubt := map[routing.Key]bool{}
	for _, key := range change.Removed {
		if key.Protocol == catalog.UDP {
			doubt[key] = true
		}
	}
	for _, f := range change.Set {
		if f.Protocol != catalog.UDP {
			continue
		}
		var old *routing.Frontend
		if h := k.held[f.Key]; h != nil {
			old = h.frontend
		}
		// What was refused or dropped in the service ranges left no entry.
		silent := slices.ContainsFunc(serviceRanges, func(p netip.Prefix) bool { return p.Contains(f.Addr) })
		if first := !serves(old) && serves(f); first && !silent || loses(old, f) {
			doubt[f.Key] = true
		}
	}
	return doubt
}

func serves(f *routing.Frontend) bool {
	return f != nil && slices.ContainsFunc(f.Verdicts[:], routing.Verdict.Serves)
}

// loses reports whether a backend that may have flows loses them by the change.
func loses(old, f *routing.Frontend) bool {
	if old == nil {
		return false
	}
	for _, set := range [][]routing.Backend{old.Cluster, old.Local} {
		for i := range set {
			if !keeps(f, set[i].AddrPort) {
				return true
			}
		}
	}
	for i := range old.LeftOut {
		if !keeps(f, old.LeftOut[i].AddrPort) {
			return true
		}
	}
	return false
}

// keeps reports whether flows to a backend may go on: it is in a set, or it was
// left out but still serves (DP-11), or it exists and nobody else serves.
func keeps(f *routing.Frontend, backend netip.AddrPort) bool {
	is := func(b routing.Backend) bool { return b.AddrPort == backend }
	if slices.ContainsFunc(f.Cluster, is) || slices.ContainsFunc(f.Local, is) {
		return true
	}
	for i := range f.LeftOut {
		if is(f.LeftOut[i].Backend) {
			return f.LeftOut[i].Serving || !serves(f)
		}
	}
	return false
}

// frontendOf gives the key that a flow's first packet was sent to, and the
// frontend if there is one.
func (b *Backend) frontendOf(flow *conntrack.Flow) (keys [2]routing.Key, f *routing.Frontend) {
	to := flow.TupleOrig.IP.DestinationAddress.Unmap()
	key := routing.Key{Addr: to, Protocol: catalog.UDP, Port: flow.TupleOrig.Proto.DestinationPort}
	keys[0], keys[1] = key, key
	if slices.Contains(b.nodes, to) {
		keys[1].Addr = b.families[index(to)].any
	}
	for _, k := range keys {
		if h := b.kernel.held[k]; h != nil && h.frontend != nil {
			return keys, h.frontend
		}
	}
	return keys, nil
}

func answersFrom(flow *conntrack.Flow) netip.AddrPort {
	return netip.AddrPortFrom(flow.TupleReply.IP.SourceAddress.Unmap(), flow.TupleReply.Proto.SourcePort)
}

func (b *Backend) staleAfterChange(flow *conntrack.Flow, doubt map[routing.Key]bool) bool {
	keys, f := b.frontendOf(flow)
	if !doubt[keys[0]] && !doubt[keys[1]] {
		return false
	}
	return f == nil || !keeps(f, answersFrom(flow))
}

func (b *Backend) staleAfterSync(flow *conntrack.Flow) bool {
	keys, f := b.frontendOf(flow)
	if f == nil {
		return slices.ContainsFunc(b.services, func(p netip.Prefix) bool { return p.Contains(keys[0].Addr) })
	}
	return !keeps(f, answersFrom(flow))
}

// endFlows deletes the UDP entries that stale picks.
func (b *Backend) endFlows(stale func(*conntrack.Flow) bool) error {
	flows, err := b.flows.Dump(nil)
	if err != nil {
		return fmt.Errorf("list conntrack entries: %w", err)
	}
	for i := range flows {
		f := &flows[i]
		if f.TupleOrig.Proto.Protocol != uint8(catalog.UDP) || !stale(f) {
			continue
		}
		// The tuples and the ID name one entry and nothing else.
		one := conntrack.Flow{ID: f.ID, Zone: f.Zone, TupleOrig: f.TupleOrig, TupleReply: f.TupleReply}
		if err := b.flows.Delete(one); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete conntrack entry %s: %w", f.TupleOrig, err)
		}
	}
	return nil
}
