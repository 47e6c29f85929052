package routes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes/sysctl"
)

// lastResort is the metric of the routes that lead nowhere: any other route to
// the same range wins. The highest value is the kernel's own (ipv6's null route).
const lastResort = 1<<32 - 2

// ensureBridge makes portico0 with the node's own addresses. n.mu is held.
func (n *Network) ensureBridge() error {
	link, err := netlink.LinkByName(Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		link, err = makeBridge()
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", Bridge, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("a %s named %s exists already and isn't Portico's; remove it (`ip link del %s`)", link.Type(), Bridge, Bridge)
	}
	n.bridge = link.Attrs().Index
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", Bridge, err)
		}
	}
	want := map[netip.Addr]bool{}
	for _, p := range n.cfg.PodCIDRs {
		if a := n.Own(p.Addr().Is6()); a.IsValid() {
			want[a] = true
		}
	}
	return EnsureAddresses(link, want)
}

// makeBridge makes the bridge without an IPv6 link-local address: nobody is on it
// to talk to.
func makeBridge() (netlink.Link, error) {
	// The kernel would call the device unmanaged and run timers of spanning tree
	// and multicast snooping; both are of no use without ports.
	snooping := false
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: Bridge}, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(br); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	for key, value := range map[string]string{
		"net/ipv6/conf/" + Bridge + "/disable_ipv6":  "0",
		"net/ipv6/conf/" + Bridge + "/accept_ra":     "0",
		"net/ipv6/conf/" + Bridge + "/addr_gen_mode": "1", // none
	} {
		if sysctl.Exists(key) {
			if err := sysctl.Set(key, value); err != nil {
				return nil, err
			}
		}
	}
	return netlink.LinkByName(Bridge)
}

// EnsureAddresses gives a link of ours the addresses wanted and takes those of a
// previous pod range away.
func EnsureAddresses(link netlink.Link, want map[netip.Addr]bool) error {
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list the addresses of %s: %w", link.Attrs().Name, err)
	}
	missing := map[netip.Addr]bool{}
	for a := range want {
		missing[a] = true
	}
	for _, h := range have {
		a, ok := netip.AddrFromSlice(h.IP)
		if a = a.Unmap(); !ok || a.IsLinkLocalUnicast() {
			continue
		}
		if want[a] {
			delete(missing, a)
		} else if err := netlink.AddrDel(link, &h); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove the address %s of an earlier pod range from %s: %w", a, link.Attrs().Name, err)
		}
	}
	for a := range missing {
		// A host address: the pods' range as a whole isn't on this link. Without a
		// carrier duplicate detection would never end, so there is none.
		addr := &netlink.Addr{IPNet: hostNet(a)}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, a, err)
		}
	}
	return nil
}

// ensureRoutes lays the routes to the Services, which the node's own clients need
// before any hook sees their packets, and those that lead nowhere: packets to pods
// and guests that don't exist are refused here and never leave by the default
// route. n.mu is held.
func (n *Network) ensureRoutes() error {
	want := n.routes()
	have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list our routes: %w", err)
	}
	present := map[netip.Prefix]bool{}
	for _, h := range have {
		p, ok := prefix(h.Dst)
		if !ok || !(h.LinkIndex == n.bridge || h.Type == unix.RTN_UNREACHABLE) {
			continue // a guest's, or another node's
		}
		w, wanted := want[p]
		switch {
		case wanted && w.Type == h.Type && w.Priority == h.Priority && w.Src.Equal(h.Src):
			present[p] = true
		case !wanted && !n.told && n.toServices(h):
			// Flows may use it: the API says soon whether the range is still there.
		default: // of an earlier configuration
			if err := netlink.RouteDel(&h); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("remove our old route to %s: %w", p, err)
			}
		}
	}
	for p, r := range want {
		if present[p] {
			continue
		}
		if err := netlink.RouteReplace(&r); err != nil {
			return fmt.Errorf("add the route to %s: %w", p, err)
		}
	}
	return nil
}

func (n *Network) routes() map[netip.Prefix]netlink.Route {
	want := map[netip.Prefix]netlink.Route{}
	for _, p := range n.services {
		if n.Own(p.Addr().Is6()).IsValid() {
			want[p] = n.serviceRoute(p)
		}
	}
	for _, list := range [][]netip.Prefix{n.cfg.Cluster, n.cfg.Guests} {
		for _, p := range list {
			if p.Addr().Is6() && !n.ipv6 {
				continue
			}
			want[p] = netlink.Route{
				Dst: ipNet(p), Protocol: RouteProtocol, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNREACHABLE, Priority: lastResort,
			}
		}
	}
	return want
}

func (n *Network) serviceRoute(p netip.Prefix) netlink.Route {
	r := netlink.Route{
		Dst: ipNet(p), LinkIndex: n.bridge, Src: n.Own(p.Addr().Is6()).AsSlice(), Protocol: RouteProtocol,
		Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
	}
	if p.Addr().Is4() {
		r.Scope = netlink.SCOPE_LINK
	} else {
		r.Priority = 1024 // what IPv6 makes of 0 (IP6_RT_PRIO_USER); said, so that it compares equal
	}
	return r
}

// toServices knows the route to a range of cluster IPs, with this node's source.
func (n *Network) toServices(r netlink.Route) bool {
	p, ok := prefix(r.Dst)
	if !ok || !n.Own(p.Addr().Is6()).IsValid() {
		return false
	}
	w := n.serviceRoute(p)
	return r.LinkIndex == w.LinkIndex && r.Type == w.Type && r.Priority == w.Priority && r.Src.Equal(w.Src)
}

func hostNet(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
