package tracked

import (
	"net/netip"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// Changes knows after which changes of frontends flows may lead to where nobody is any more, or
// to nobody although somebody serves by now. The kernel's flows are read only then. It isn't
// safe for concurrent use.
type Changes struct {
	doubt bool                        // UDP flows may be stale
	left  map[routing.Key]bool        // UDP frontends that are gone
	users map[netip.Addr]int          // how many frontends know a backend's address
	gone  map[netip.AddrPort]struct{} // TCP backends that had been terminating
}

// NewChanges begins without any.
func NewChanges() *Changes {
	return &Changes{left: map[routing.Key]bool{}, users: map[netip.Addr]int{}, gone: map[netip.AddrPort]struct{}{}}
}

// Replaced takes a new state; before is nil where it was unknown.
func (c *Changes) Replaced(before, now map[routing.Key]*routing.Frontend) {
	clear(c.users)
	for k, f := range now {
		c.noted(before[k], f)
		c.count(f, +1)
	}
	for k, f := range before {
		if now[k] == nil {
			c.noted(f, nil)
		}
	}
	c.doubt = true
}

// Changed takes the change of one frontend; nil: it wasn't there, or is gone.
func (c *Changes) Changed(old, now *routing.Frontend) {
	c.noted(old, now)
	c.count(old, -1)
	c.count(now, +1)
}

func (c *Changes) count(f *routing.Frontend, by int) {
	for b := range f.Backends() {
		if c.users[b.Addr()] += by; c.users[b.Addr()] == 0 {
			delete(c.users, b.Addr())
		}
	}
}

func (c *Changes) noted(old, now *routing.Frontend) {
	f := now
	if f == nil {
		f = old
	}
	switch {
	case f == nil:
	case f.Protocol == catalog.UDP:
		if now == nil {
			c.left[f.Key] = true
		} else {
			delete(c.left, f.Key)
		}
		c.doubt = c.doubt || now == nil || !old.Serves() && now.Serves() || loses(old, now)
	case f.Protocol == catalog.TCP && now != nil:
		c.notedTCP(old, now)
	}
}

// notedTCP notes backends that were terminating and are no more: their pods are gone with
// their links, and closed nothing. One that only left the Service keeps its connections.
func (c *Changes) notedTCP(old, now *routing.Frontend) {
	if old != nil && old.Sets == now.Sets {
		return
	}
	known := map[netip.AddrPort]bool{}
	for b := range now.Backends() {
		known[b.AddrPort] = true
		delete(c.gone, b.AddrPort)
	}
	for b := range old.Backends() {
		if b.Terminating && !known[b.AddrPort] {
			c.gone[b.AddrPort] = struct{}{}
		}
	}
}

// loses tells whether a backend that served doesn't any more.
func loses(old, now *routing.Frontend) bool {
	if old == nil || old.Sets == now.Sets {
		return false
	}
	serving := map[netip.AddrPort]bool{}
	for b := range now.Backends() {
		serving[b.AddrPort] = b.Serving
	}
	for b := range old.Backends() {
		if !serving[b.AddrPort] {
			return true
		}
	}
	return false
}

// Left tells whether a UDP frontend is gone whose flows haven't been ended yet.
func (c *Changes) Left(k routing.Key) bool { return c.left[k] }

// Ended gives the TCP backends whose pods are gone.
func (c *Changes) Ended() map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	for b := range c.gone {
		if c.users[b.Addr()] == 0 {
			out[b] = true
		}
	}
	return out
}

// End deletes what is stale from conntrack, if there may be some; the flows to ended, which is
// of Ended, are. get gives the frontends as they are, nil where there is none; node tells
// whether node ports answer at an address. After a failure all is still to be done.
func (c *Changes) End(ended map[netip.AddrPort]bool, get func(routing.Key) *routing.Frontend, node func(netip.Addr) bool) error {
	if !c.doubt && len(ended) == 0 {
		return nil
	}
	if err := End(func(f *conntrack.Flow) bool { return c.stale(f, ended, get, node) }); err != nil {
		return err
	}
	c.doubt = false
	clear(c.left)
	for b := range ended {
		delete(c.gone, b)
	}
	return nil
}

// stale tells whether a flow leads to where it no longer should.
func (c *Changes) stale(f *conntrack.Flow, ended map[netip.AddrPort]bool, get func(routing.Key) *routing.Frontend, node func(netip.Addr) bool) bool {
	to := netip.AddrPortFrom(f.TupleOrig.IP.DestinationAddress, f.TupleOrig.Proto.DestinationPort)
	by := netip.AddrPortFrom(f.TupleReply.IP.SourceAddress, f.TupleReply.Proto.SourcePort)
	switch f.TupleOrig.Proto.Protocol {
	case unix.IPPROTO_TCP:
		return by != to && ended[by]
	case unix.IPPROTO_UDP:
	default:
		return false
	}
	if !c.doubt {
		return false
	}
	k, ok := Frontend(f, func(k routing.Key) bool { return get(k) != nil || c.left[k] }, node)
	fe := get(k)
	switch {
	case !ok:
		return false
	case fe == nil:
		return by != to
	case by == to: // it began before the frontend served
		return fe.Serves()
	}
	for b := range fe.Backends() {
		if b.AddrPort == by {
			return !b.Serving && fe.Serves()
		}
	}
	return true
}
