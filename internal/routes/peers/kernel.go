package peers

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/routes"
)

// metric is above that of any route which a link brings with it, so that a guest's link on
// this node wins while the guest moves, and so does a route by somebody else. Nobody else
// is likely to use this very one: a route of ours only ever replaces another of ours.
const metric = 2113

// kernel makes the kernel equal to a plan, and remembers it.
type kernel struct {
	port uint16
	made mesh.Plan
	// wrote has the routes as they were written; nil before the first look.
	wrote map[netip.Prefix]entry
}

// entry is a route as the kernel has it.
type entry struct {
	via   netip.Addr
	index int // of its link
	src   netip.Addr
	mtu   int
}

// apply makes the kernel equal to the plan. It reads the kernel only at first and where
// something is astray; else it writes what differs from the plan before.
func (k *kernel) apply(plan mesh.Plan, astray bool) error {
	whole := astray || k.wrote == nil
	if !whole && reflect.DeepEqual(plan, k.made) {
		return nil
	}
	// One tunnel that can't be is no reason to lose the direct ways.
	var failed error
	if whole || !reflect.DeepEqual(plan.Tunnels, k.made.Tunnels) {
		whole = true // routes go with a link that is made anew
		for _, t := range plan.Tunnels {
			failed = errors.Join(failed, k.openTunnel(t))
		}
	}
	want, missing, err := wanted(plan.Routes)
	if err != nil {
		return errors.Join(failed, err)
	}
	failed = errors.Join(append(missing, failed)...)
	if whole {
		failed = errors.Join(failed, adopt(want))
	} else {
		failed = errors.Join(failed, rewrite(k.wrote, want))
	}
	failed = errors.Join(failed, closeTunnels(plan.Tunnels))
	if failed != nil {
		return failed
	}
	k.made, k.wrote = plan, want
	return nil
}

// wanted turns planned routes into entries. Those over a link that isn't there are left
// out, with one error in missing for the link.
func wanted(planned []mesh.Route) (_ map[netip.Prefix]entry, missing []error, _ error) {
	index := map[string]int{} // 0: there is no such link
	out := make(map[netip.Prefix]entry, len(planned))
	for _, r := range planned {
		i, known := index[r.Link]
		if !known {
			l, err := netlink.LinkByName(r.Link)
			switch {
			case errors.As(err, &netlink.LinkNotFoundError{}):
				missing = append(missing, fmt.Errorf("other nodes are reached by the link %s: %w", r.Link, err))
			case err != nil:
				return nil, nil, fmt.Errorf("find the link %s: %w", r.Link, err)
			default:
				i = l.Attrs().Index
			}
			index[r.Link] = i
		}
		if i != 0 {
			out[r.To] = entry{via: r.Via, index: i, src: r.Src, mtu: r.MTU}
		}
	}
	return out, missing, nil
}

// adopt writes the routes that are missing or wrong, then removes what is ours and not
// wanted: no destination is without a route meanwhile.
func adopt(want map[netip.Prefix]entry) error {
	have, err := list()
	if err != nil {
		return err
	}
	right := map[netip.Prefix]entry{}
	for _, r := range have {
		if to, e := read(r); r.Priority == metric && want[to] == e {
			right[to] = e
		}
	}
	if err := rewrite(right, want); err != nil {
		return err
	}
	if have, err = list(); err != nil {
		return err
	}
	for _, r := range have {
		to, e := read(r)
		if w, ok := want[to]; ok && w == e && r.Priority == metric {
			continue
		}
		if err := remove(r); err != nil {
			return err
		}
	}
	return nil
}

// rewrite writes the routes in which want differs from have, and removes those that it
// hasn't got. The error is the first of all.
func rewrite(have, want map[netip.Prefix]entry) error {
	var first error
	failed := 0
	note := func(err error) {
		if err != nil {
			failed++
		}
		if first == nil {
			first = err
		}
	}
	for to, e := range want {
		if have[to] != e {
			note(write(to, e))
		}
	}
	for to := range have {
		if _, ok := want[to]; !ok {
			note(remove(netlink.Route{Dst: ipNet(to), Protocol: routes.PeerProtocol, Table: unix.RT_TABLE_MAIN, Priority: metric}))
		}
	}
	if failed > 1 {
		return fmt.Errorf("%d routes, the first: %w", failed, first)
	}
	return first
}

func write(to netip.Prefix, e entry) error {
	r := netlink.Route{
		Dst: ipNet(to), LinkIndex: e.index, Gw: e.via.AsSlice(), Flags: int(netlink.FLAG_ONLINK), Priority: metric,
		Protocol: routes.PeerProtocol, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
	}
	if e.src.IsValid() {
		r.Src = e.src.AsSlice()
	}
	if e.mtu > 0 {
		// Locked, or IPv6 would forward larger ones nevertheless (ip6_dst_mtu_maybe_forward).
		r.MTU, r.MTULock = e.mtu, true
	}
	if err := netlink.RouteReplace(&r); err != nil {
		return fmt.Errorf("route %s via %s: %w", to, e.via, err)
	}
	return nil
}

func remove(r netlink.Route) error {
	if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove the route to %s: %w", r.Dst, err)
	}
	return nil
}

// list gives our routes to other nodes, of any run.
func list() ([]netlink.Route, error) {
	have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL,
		&netlink.Route{Protocol: routes.PeerProtocol, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list the routes to other nodes: %w", err)
	}
	return have, nil
}

func read(r netlink.Route) (netip.Prefix, entry) {
	if r.Dst == nil {
		return netip.Prefix{}, entry{}
	}
	bits, _ := r.Dst.Mask.Size()
	e := entry{via: addr(r.Gw), index: r.LinkIndex, src: addr(r.Src), mtu: r.MTU}
	return netip.PrefixFrom(addr(r.Dst.IP), bits), e
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// Missing tells, in words, which of a plan's tunnels and routes the kernel hasn't got.
func Missing(plan mesh.Plan) ([]string, error) {
	var out []string
	for _, t := range plan.Tunnels {
		if _, err := netlink.LinkByName(t.Link); err != nil {
			out = append(out, "the link "+t.Link)
		}
	}
	want, _, err := wanted(plan.Routes)
	if err != nil {
		return nil, err
	}
	have, err := list()
	if err != nil {
		return nil, err
	}
	there := map[netip.Prefix]bool{}
	for _, r := range have {
		to, e := read(r)
		there[to] = there[to] || want[to] == e
	}
	for _, r := range plan.Routes {
		if !there[r.To] {
			out = append(out, "the route to "+r.To.String())
		}
	}
	return out, nil
}
