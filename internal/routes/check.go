package routes

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/mesh"
)

// Check looks, before anything starts, for ranges that can't work here: malformed
// ones, ranges that overlap each other, and ranges that overlap what this host
// routes. The error is a sentence with the remedy. The warnings name what will
// hurt without making a start impossible, each with the command that mends it.
func Check(c Config) (warnings []string, err error) {
	for _, l := range []struct {
		flag string
		list []netip.Prefix
	}{{"--service-cidr", c.Services}, {"--cluster-cidr", c.Cluster}, {"--guest-cidr", c.Guests}} {
		if err := checkList(l.flag, l.list); err != nil {
			return nil, err
		}
	}
	taken, err := hostRoutes()
	if err != nil {
		return nil, err
	}
	warnings, err = checkOverlaps(c.ranges(), taken)
	if err != nil {
		return nil, err
	}
	firewall, err := checkFirewall(c)
	if err != nil {
		return nil, err
	}
	return append(warnings, firewall...), nil
}

// hostRoute is a destination that this host reaches by itself.
type hostRoute struct {
	prefix    netip.Prefix
	link      string // "" for a route without one
	address   bool   // an address of the host itself
	connected bool   // the hosts there are on the link
}

func (r hostRoute) String() string {
	kind := "route"
	if r.address {
		kind = "address"
	}
	if r.link == "" {
		return fmt.Sprintf("the %s %s", kind, r.prefix)
	}
	return fmt.Sprintf("the %s %s on %s", kind, r.prefix, r.link)
}

// checkOverlaps compares the ranges with each other and with the host's routes.
func checkOverlaps(ranges []namedRange, taken []hostRoute) (warnings []string, err error) {
	for i, a := range ranges {
		for _, b := range ranges[:i] {
			if a.prefix.Overlaps(b.prefix) {
				return nil, fmt.Errorf("%s overlaps %s; choose ranges that have no address in common%s", a, b, suggest(a, ranges, taken))
			}
		}
	}
	for _, r := range ranges {
		for _, t := range taken {
			if !r.prefix.Overlaps(t.prefix) {
				continue
			}
			// Ours is the longer prefix and wins. Where the wider route leads
			// away from here (a VPN's 10.0.0.0/8), most of it still works.
			if t.prefix.Bits() < r.prefix.Bits() && !t.connected {
				warnings = append(warnings, fmt.Sprintf("%s lies inside %s: from this host and its guests, hosts there with an address in %s can't be reached%s",
					r, t, r.prefix, suggest(r, ranges, taken)))
				continue
			}
			return nil, fmt.Errorf("%s overlaps %s, and packets for one of them would get lost; remove that (`ip %s`) or choose another range%s",
				r, t, removal(t), suggest(r, ranges, taken))
		}
	}
	return warnings, nil
}

func removal(t hostRoute) string {
	if t.address {
		return fmt.Sprintf("addr del %s dev %s", t.prefix, t.link)
	}
	dev := ""
	if t.link != "" {
		dev = " dev " + t.link
	}
	return fmt.Sprintf("route del %s%s", t.prefix, dev)
}

// suggest offers a free range of the same size, where one is found soon.
func suggest(r namedRange, ranges []namedRange, taken []hostRoute) string {
	free := func(p netip.Prefix) bool {
		for _, o := range ranges {
			if p.Overlaps(o.prefix) {
				return false
			}
		}
		for _, t := range taken {
			if p.Overlaps(t.prefix) {
				return false
			}
		}
		return true
	}
	// Private space that hosts use least: the upper part of 10/8 downwards, and
	// fd00:10:x:: upwards.
	const tries = 256
	for i := range tries {
		var p netip.Prefix
		if r.prefix.Addr().Is4() {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(255 - i)}), r.prefix.Bits()).Masked()
		} else {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, 0, 0x10, 0x01, byte(i)}), r.prefix.Bits()).Masked()
		}
		if free(p) {
			return fmt.Sprintf("; %s=%s is free here", r.flag, p)
		}
	}
	return ""
}

// hostRoutes lists what this host routes in any table, and its addresses, without
// default routes, our own and the ranges that every host has.
func hostRoutes() ([]hostRoute, error) {
	names := map[int]string{}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list this host's links: %w", err)
	}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list this host's routes: %w", err)
	}
	var out []hostRoute
	for _, r := range routes {
		p, ok := prefix(r.Dst)
		if !ok || p.Bits() == 0 || r.Protocol == RouteProtocol || r.Protocol == PeerProtocol || ours(names[r.LinkIndex]) || special(p) {
			continue
		}
		switch r.Type {
		case unix.RTN_LOCAL:
			out = append(out, hostRoute{prefix: p, link: names[r.LinkIndex], address: true})
		case unix.RTN_BROADCAST, unix.RTN_MULTICAST, unix.RTN_ANYCAST:
		default:
			// The kernel's own routes are the subnets of the links' addresses.
			out = append(out, hostRoute{prefix: p, link: names[r.LinkIndex], connected: r.Protocol == unix.RTPROT_KERNEL})
		}
	}
	return out, nil
}

// ours tells whether a link is one of Portico's.
func ours(link string) bool {
	return link == Bridge || isTunnel(link) || strings.HasPrefix(link, LinkPrefix)
}

func isTunnel(link string) bool { return link == mesh.TunnelIPv4 || link == mesh.TunnelIPv6 }

func special(p netip.Prefix) bool {
	a := p.Addr()
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast()
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if !ok || size == 0 {
		return netip.Prefix{}, false
	}
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits), true
}
