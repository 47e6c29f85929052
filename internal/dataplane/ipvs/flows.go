package ipvs

import (
	"iter"
	"net/netip"
	"slices"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane/tracked"
)

// flows knows after which changes conntrack leads packets to where nobody is any more, or
// past a virtual server that came later. IPVS forgets a connection with its backend; but a
// connection that conntrack still knows costs the client a packet (ip_vs_core.c drops it),
// and one that was led first never meets IPVS again.
type flows struct {
	doubt bool                        // UDP flows may be stale
	left  map[routing.Key]bool        // UDP frontends that are gone
	users map[netip.Addr]int          // how many frontends know a backend's address
	gone  map[netip.AddrPort]struct{} // TCP backends that had been terminating
}

func newFlows() *flows {
	return &flows{left: map[routing.Key]bool{}, users: map[netip.Addr]int{}, gone: map[netip.AddrPort]struct{}{}}
}

// backends gives all that a frontend knows, also those that get nothing.
func backends(f *routing.Frontend) iter.Seq[routing.Backend] {
	return func(yield func(routing.Backend) bool) {
		if f == nil || f.Sets == nil {
			return
		}
		for _, set := range [][]routing.Backend{f.Cluster, f.Local} {
			for _, b := range set {
				if !yield(b) {
					return
				}
			}
		}
		for _, b := range f.LeftOut {
			if !yield(b.Backend) {
				return
			}
		}
	}
}

func serves(f *routing.Frontend) bool {
	return f != nil && (f.Verdicts[routing.Workload].Serves() || f.Verdicts[routing.Outside].Serves())
}

// replaced takes a new state; before is nil where it was unknown.
func (w *flows) replaced(before, now map[routing.Key]*routing.Frontend) {
	clear(w.users)
	for k, f := range now {
		w.noted(before[k], f)
		w.count(f, +1)
	}
	for k, f := range before {
		if now[k] == nil {
			w.noted(f, nil)
		}
	}
	w.doubt = true
}

// changed takes the change of one frontend; nil: it wasn't there, or is gone.
func (w *flows) changed(old, now *routing.Frontend) {
	w.noted(old, now)
	w.count(old, -1)
	w.count(now, +1)
}

func (w *flows) count(f *routing.Frontend, by int) {
	for b := range backends(f) {
		if w.users[b.Addr()] += by; w.users[b.Addr()] == 0 {
			delete(w.users, b.Addr())
		}
	}
}

func (w *flows) noted(old, now *routing.Frontend) {
	f := now
	if f == nil {
		f = old
	}
	switch {
	case f == nil:
	case f.Protocol == catalog.UDP:
		if now == nil {
			w.left[f.Key] = true
		} else {
			delete(w.left, f.Key)
		}
		w.doubt = w.doubt || now == nil || !serves(old) && serves(now) || loses(old, now)
	case f.Protocol == catalog.TCP && now != nil:
		w.notedTCP(old, now)
	}
}

// notedTCP notes backends that were terminating and are no more: their pods are gone with
// their links, and closed nothing. One that only left the Service keeps its connections.
func (w *flows) notedTCP(old, now *routing.Frontend) {
	if old != nil && old.Sets == now.Sets {
		return
	}
	known := map[netip.AddrPort]bool{}
	for b := range backends(now) {
		known[b.AddrPort] = true
		delete(w.gone, b.AddrPort)
	}
	for b := range backends(old) {
		if b.Terminating && !known[b.AddrPort] {
			w.gone[b.AddrPort] = struct{}{}
		}
	}
}

// loses tells whether a backend that served doesn't any more.
func loses(old, now *routing.Frontend) bool {
	if old == nil || old.Sets == now.Sets {
		return false
	}
	serving := map[netip.AddrPort]bool{}
	for b := range backends(now) {
		serving[b.AddrPort] = b.Serving
	}
	for b := range backends(old) {
		if !serving[b.AddrPort] {
			return true
		}
	}
	return false
}

// ended gives the TCP backends whose pods are gone.
func (w *flows) ended() map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	for b := range w.gone {
		if w.users[b.Addr()] == 0 {
			out[b] = true
		}
	}
	return out
}

// end lists conntrack, where it must, and deletes what is stale.
func (w *flows) end(ended map[netip.AddrPort]bool, frontends map[routing.Key]*routing.Frontend, nodes []netip.Addr) error {
	if !w.doubt && len(ended) == 0 {
		return nil
	}
	if err := tracked.End(func(f *conntrack.Flow) bool { return w.stale(f, ended, frontends, nodes) }); err != nil {
		return err
	}
	w.doubt = false
	clear(w.left)
	for b := range ended {
		delete(w.gone, b)
	}
	return nil
}

// stale tells whether a flow leads to where it no longer should.
func (w *flows) stale(f *conntrack.Flow, ended map[netip.AddrPort]bool, frontends map[routing.Key]*routing.Frontend, nodes []netip.Addr) bool {
	to := netip.AddrPortFrom(f.TupleOrig.IP.DestinationAddress, f.TupleOrig.Proto.DestinationPort)
	by := netip.AddrPortFrom(f.TupleReply.IP.SourceAddress, f.TupleReply.Proto.SourcePort)
	switch f.TupleOrig.Proto.Protocol {
	case unix.IPPROTO_TCP:
		return by != to && ended[by]
	case unix.IPPROTO_UDP:
	default:
		return false
	}
	if !w.doubt {
		return false
	}
	has := func(k routing.Key) bool { return frontends[k] != nil || w.left[k] }
	k, ok := tracked.Frontend(f, has, func(a netip.Addr) bool { return slices.Contains(nodes, a) })
	fe := frontends[k]
	switch {
	case !ok:
		return false
	case fe == nil:
		return by != to
	case by == to: // it began before the frontend served
		return serves(fe)
	}
	for b := range backends(fe) {
		if b.AddrPort == by {
			return !b.Serving && serves(fe)
		}
	}
	return true
}
