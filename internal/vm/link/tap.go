package link

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/sysctl"
)

// ErrInUse means that a running guest holds the tap open.
var ErrInUse = errors.New("a running guest holds this link")

// ErrNoLink means that the guest has no tap.
var ErrNoLink = errors.New("no such link")

// openTap opens the tap, making it if need be, and lets it outlive whoever holds
// it: routes and addresses stay over the guest's and the daemon's restarts.
func openTap(name string) (*os.File, error) {
	// Non-blocking before NewFile, so that the runtime's poller takes it.
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun (is the tun module loaded?): %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		// With a virtio-net header QEMU passes checksum and segmentation
		// offloads on instead of doing them in software.
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
	}
	if err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EBUSY) {
			err = ErrInUse
		}
		return nil, fmt.Errorf("open tap %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// find looks for the guest's tap. A tap without an alias is one whose maker
// crashed before he could write it.
func find(id string) (netlink.Link, error) {
	l, err := netlink.LinkByName(linkName(id))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("tap %s of instance %s: %w", linkName(id), id, ErrNoLink)
	}
	if err != nil {
		return nil, fmt.Errorf("find tap %s: %w", linkName(id), err)
	}
	if l.Type() != "tuntap" || l.Attrs().Alias != "" && l.Attrs().Alias != id {
		return nil, fmt.Errorf("the name %s is taken by a %s link with alias %q", linkName(id), l.Type(), l.Attrs().Alias)
	}
	return l, nil
}

// list finds all taps of ours with the IDs of their guests.
func list() (map[string]netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	out := map[string]netlink.Link{}
	for _, l := range links {
		a := l.Attrs()
		if l.Type() == "tuntap" && strings.HasPrefix(a.Name, routes.LinkPrefix) && a.Alias != "" && linkName(a.Alias) == a.Name {
			out[a.Alias] = l
		}
	}
	return out, nil
}

// ensure makes the guest's side of the kernel what it should be: switches, MAC,
// MTU, gateway addresses, neighbours and routes. It writes only what differs.
func (m *Manager) ensure(l netlink.Link, g Guest) error {
	name := l.Attrs().Name
	if err := tune(name); err != nil {
		return err
	}
	if l.Attrs().Alias != g.ID {
		if err := netlink.LinkSetAlias(l, g.ID); err != nil {
			return fmt.Errorf("set the alias of %s: %w", name, err)
		}
	}
	if !bytes.Equal(l.Attrs().HardwareAddr, GatewayMAC) {
		if err := netlink.LinkSetHardwareAddr(l, GatewayMAC); err != nil {
			return fmt.Errorf("set the hardware address of %s: %w", name, err)
		}
	}
	if l.Attrs().MTU != m.mtu {
		if err := netlink.LinkSetMTU(l, m.mtu); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", name, m.mtu, err)
		}
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(l); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	for _, a := range g.Addrs {
		if err := m.connect(l, g, a); err != nil {
			return err
		}
	}
	return nil
}

// connect lays the way to one address of the guest.
func (m *Manager) connect(l netlink.Link, g Guest, a netip.Addr) error {
	name, index := l.Attrs().Name, l.Attrs().Index
	gateway, src := &netlink.Addr{IPNet: ipNet(Gateway4, 32), Scope: unix.RT_SCOPE_LINK}, m.cfg.Source4
	if a.Is6() {
		// Without duplicate detection: it would end only when the guest is up.
		gateway, src = &netlink.Addr{IPNet: ipNet(Gateway6, 64), Scope: unix.RT_SCOPE_LINK, Flags: unix.IFA_F_NODAD}, m.cfg.Source6
	}
	if err := netlink.AddrReplace(l, gateway); err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, gateway.IP, err)
	}
	// A fixed neighbour: the first packet waits for nobody, and a guest can
	// neither claim to be elsewhere nor push others out of a full table.
	neighbour := &netlink.Neigh{LinkIndex: index, IP: a.AsSlice(), HardwareAddr: g.MAC, State: netlink.NUD_PERMANENT, Family: familyOf(a)}
	if err := netlink.NeighSet(neighbour); err != nil {
		return fmt.Errorf("tell %s of its neighbour %s: %w", name, a, err)
	}
	route := &netlink.Route{
		LinkIndex: index, Dst: ipNet(a, a.BitLen()), Protocol: routes.RouteProtocol,
		Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST,
	}
	if a.Is4() {
		route.Scope = netlink.SCOPE_LINK
	}
	if src.IsValid() {
		// Or the node's source towards guests would be any address it has.
		route.Src = src.AsSlice()
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s to %s: %w", a, name, err)
	}
	return nil
}

// otherLinkOf names the link of another guest to which the address is routed.
func otherLinkOf(a netip.Addr, index int) (string, error) {
	have, err := netlink.RouteListFiltered(familyOf(a), &netlink.Route{Dst: ipNet(a, a.BitLen()), Protocol: routes.RouteProtocol},
		netlink.RT_FILTER_DST|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return "", fmt.Errorf("look for routes to %s: %w", a, err)
	}
	for _, r := range have {
		if r.LinkIndex == index || r.LinkIndex == 0 {
			continue
		}
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find the link of the route to %s: %w", a, err)
		}
		return l.Attrs().Name, nil
	}
	return "", nil
}

// tune sets the switches of one tap. A new link inherits conf/default, which on
// every host is different: all that matters is set.
func tune(name string) error {
	return sysctl.Tune(name, [][2]string{
		{"net/ipv4/conf/%/forwarding", "1"},
		{"net/ipv4/conf/%/rp_filter", "1"}, // sources are the guest's own; our table says so too
		{"net/ipv4/conf/%/send_redirects", "0"},
		{"net/ipv4/conf/%/accept_redirects", "0"},
		{"net/ipv4/conf/%/accept_source_route", "0"},
		{"net/ipv4/conf/%/proxy_arp", "0"},
		{"net/ipv6/conf/%/disable_ipv6", "0"},
		{"net/ipv6/conf/%/addr_gen_mode", "1"}, // none: fe80::1 is the only address
		{"net/ipv6/conf/%/accept_ra", "0"},
		{"net/ipv6/conf/%/autoconf", "0"},
		{"net/ipv6/conf/%/accept_redirects", "0"},
		// forwarding makes neighbour advertisements say "router"; without it the
		// guest drops its default route. On kernels that have it, force_forwarding
		// makes up for an all.forwarding of 0.
		{"net/ipv6/conf/%/forwarding", "1"},
		{"net/ipv6/conf/%/force_forwarding", "1"},
	})
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}
