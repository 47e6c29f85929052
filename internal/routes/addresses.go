package routes

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/rtevent"
)

// Addresses are a node's primary ones, at most one of each family; the other is
// invalid.
type Addresses struct {
	IPv4, IPv6 netip.Addr
}

// All lists the valid ones, IPv4 first.
func (a Addresses) All() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{a.IPv4, a.IPv6}, func(x netip.Addr) bool { return !x.IsValid() })
}

// PrimaryAddresses finds by which address of each family this node is known: those
// given (--node-ip), or else the ones from which packets leave by the default
// route, or else the first of global scope.
func PrimaryAddresses(given []netip.Addr) (Addresses, error) {
	links, all, err := readAddresses()
	if err != nil {
		return Addresses{}, err
	}
	names := map[int]string{}
	for _, a := range links {
		if a.Flags&net.FlagLoopback == 0 {
			names[a.Index] = a.Name
		}
	}
	have := candidates(all, names)
	if len(given) > 0 {
		return pickGiven(given, have)
	}
	var out Addresses
	for _, ipv6 := range []bool{false, true} {
		link, src, err := defaultRoute(ipv6)
		if err != nil {
			return Addresses{}, err
		}
		a := pick(have, ipv6, link, src)
		if ipv6 {
			out.IPv6 = a
		} else {
			out.IPv4 = a
		}
	}
	if len(out.All()) == 0 {
		return Addresses{}, fmt.Errorf("this host has no address by which it can be reached; give a link one (`ip addr add 192.0.2.10/24 dev LINK`)")
	}
	return out, nil
}

// candidate is an address that may be the node's.
type candidate struct {
	addr  netip.Addr
	index int
	link  string
	rank  int // lower is better
}

// candidates ranks the addresses of links that are up: stable before temporary
// ones (RFC 8981), routable before unique local ones (RFC 4193); those that can't
// be used yet, or should not be any more, are none.
func candidates(all []netlink.Addr, names map[int]string) []candidate {
	var out []candidate
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		unusable := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
		if !ok || !addr.IsGlobalUnicast() || names[a.LinkIndex] == "" || unusable || a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		c := candidate{addr: addr, index: a.LinkIndex, link: names[a.LinkIndex]}
		if addr.Is6() && addr.IsPrivate() {
			c.rank++
		}
		if a.Flags&unix.IFA_F_SECONDARY != 0 { // for IPv6 the same bit says "temporary"
			c.rank += 2
		}
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b candidate) int {
		if a.rank != b.rank {
			return a.rank - b.rank
		}
		return a.index - b.index
	})
	return out
}

// pick takes the default route's own source, or the best address of its link, or
// the best of all.
func pick(have []candidate, ipv6 bool, link int, src netip.Addr) netip.Addr {
	var best, onLink netip.Addr
	for _, c := range have {
		switch {
		case c.addr.Is6() != ipv6:
		case c.addr == src:
			return src
		case c.index == link && !onLink.IsValid():
			onLink = c.addr
		case !best.IsValid():
			best = c.addr
		}
	}
	if onLink.IsValid() {
		return onLink
	}
	return best
}

func pickGiven(given []netip.Addr, have []candidate) (Addresses, error) {
	var out Addresses
	for _, g := range given {
		g = g.Unmap()
		if !slices.ContainsFunc(have, func(c candidate) bool { return c.addr == g }) {
			var known []string
			for _, c := range have {
				known = append(known, fmt.Sprintf("%s (%s)", c.addr, c.link))
			}
			return Addresses{}, fmt.Errorf("--node-ip %s is no address of this host; it has %s", g, strings.Join(known, ", "))
		}
		slot := &out.IPv4
		if g.Is6() {
			slot = &out.IPv6
		}
		if slot.IsValid() {
			return Addresses{}, fmt.Errorf("--node-ip has two addresses of one family, %s and %s; give at most one of each", *slot, g)
		}
		*slot = g
	}
	return out, nil
}

// defaultRoute finds link and preferred source of the default route with the
// lowest metric; the link is 0 when there is none.
func defaultRoute(ipv6 bool) (link int, src netip.Addr, err error) {
	fam := netlink.FAMILY_V4
	if ipv6 {
		fam = netlink.FAMILY_V6
	}
	routes, err := netlink.RouteList(nil, fam)
	if err != nil {
		return 0, src, fmt.Errorf("list this host's routes: %w", err)
	}
	metric := math.MaxInt
	for _, r := range routes {
		if p, ok := prefix(r.Dst); ok && p.Bits() > 0 || r.Type != unix.RTN_UNICAST || r.Priority >= metric {
			continue
		}
		index := r.LinkIndex
		if index == 0 && len(r.MultiPath) > 0 {
			index = r.MultiPath[0].LinkIndex
		}
		if index == 0 {
			continue
		}
		link, metric = index, r.Priority
		src, _ = netip.AddrFromSlice(r.Src)
		src = src.Unmap()
	}
	return link, src, nil
}

// UplinkMTU is the largest packet that the links of the default routes take; what
// guests are told. Without a default route it is Ethernet's 1500.
func UplinkMTU() (int, error) {
	mtu := 0
	for _, ipv6 := range []bool{false, true} {
		index, _, err := defaultRoute(ipv6)
		if err != nil {
			return 0, err
		}
		if index == 0 {
			continue
		}
		l, err := netlink.LinkByIndex(index)
		if err != nil {
			return 0, fmt.Errorf("find the link of the default route: %w", err)
		}
		if m := l.Attrs().MTU; mtu == 0 || m < mtu {
			mtu = m
		}
	}
	const ethernet, ipv6Minimum = 1500, 1280 // RFC 894, RFC 8200 section 5
	if mtu == 0 {
		return ethernet, nil
	}
	return max(mtu, ipv6Minimum), nil
}

// WatchAddresses calls nodePorts with the addresses at which node ports answer, and primary
// with the node's primary ones, each at once and whenever they change, until ctx ends. While
// there is no primary one at all (a DHCP lease between two others) the last ones stand.
func WatchAddresses(ctx context.Context, given []netip.Addr, ranges []netip.Prefix, log *slog.Logger, nodePorts func([]netip.Addr), primary func(Addresses)) error {
	w, err := rtevent.Open()
	if err != nil {
		return err
	}
	var last Addresses
	var at []netip.Addr // of node ports; nil: nothing was told yet
	look := func() {
		now, err := PrimaryAddresses(given)
		if err != nil {
			log.Warn("The node's addresses are unknown for now; keeping the last ones", "addresses", last.All(), "error", err)
			if ranges == nil {
				return
			}
			now = last
		}
		ports, err := NodePortAddresses(ranges, now)
		switch {
		case err != nil:
			log.Warn("The addresses of node ports are unknown for now; keeping the last ones", "addresses", at, "error", err)
		case at == nil || !slices.Equal(ports, at):
			at = ports
			if len(at) == 0 {
				log.Warn("Node ports answer nowhere: this host has no address in --nodeport-addresses; they will once it has", "ranges", ranges)
			}
			nodePorts(at)
		}
		if now != last {
			last = now
			primary(now)
		}
	}
	look()
	return w.Run(ctx, func(e rtevent.Event) {
		if e.Kind != rtevent.Forwarding {
			look()
		}
	})
}
