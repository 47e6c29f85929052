package peers

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/sysctl"
)

// openTunnel makes the tunnel's link, or takes the one that is there, with its peers.
func (k *kernel) openTunnel(t mesh.Tunnel) error {
	link, err := k.tunnelLink(t)
	if err != nil {
		return fmt.Errorf("make the tunnel %s: %w", t.Link, err)
	}
	if err := tune(t.Link); err != nil {
		return err
	}
	if link.Attrs().MTU != t.MTU {
		if err := netlink.LinkSetMTU(link, t.MTU); err != nil {
			return fmt.Errorf("set the MTU of %s to %d: %w", t.Link, t.MTU, err)
		}
	}
	if !bytes.Equal(link.Attrs().HardwareAddr, t.MAC) {
		if err := netlink.LinkSetHardwareAddr(link, t.MAC); err != nil {
			return fmt.Errorf("set the hardware address of %s: %w", t.Link, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", t.Link, err)
		}
	}
	addrs := map[netip.Addr]bool{}
	for _, a := range t.Addrs {
		addrs[a] = true
	}
	if err := routes.EnsureAddresses(link, addrs); err != nil {
		return err
	}
	return introduce(link.Attrs().Index, t)
}

// tunnelLink finds the tunnel's link, or makes it. One that can't become what is wanted is
// made anew: the kernel changes neither port nor number of a VXLAN link.
func (k *kernel) tunnelLink(t mesh.Tunnel) (netlink.Link, error) {
	link, err := netlink.LinkByName(t.Link)
	switch {
	case errors.As(err, &netlink.LinkNotFoundError{}):
	case err != nil:
		return nil, err
	case link.Type() != "vxlan":
		return nil, fmt.Errorf("a %s of that name exists already and isn't Portico's; remove it (`ip link del %s`)", link.Type(), t.Link)
	default:
		v := link.(*netlink.Vxlan)
		if v.VxlanId == vni && v.Port == int(k.port) && !v.Learning && addr(v.SrcAddr) == t.Local {
			return link, nil
		}
		if err := netlink.LinkDel(link); err != nil {
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = t.Link, t.MTU, t.MAC
	// Who sends is known by the guard, and who is where by the entries below: nothing is
	// learnt, and nothing is flooded. "Don't fragment" stays off for packets between the
	// nodes: a narrow hop between them makes fragments, not losses.
	fresh := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: vni, SrcAddr: t.Local.AsSlice(), Port: int(k.port)}
	if err := netlink.LinkAdd(fresh); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = errors.New("this kernel has no VXLAN; load the module (`modprobe vxlan`), nodes behind a router aren't reached without")
		}
		return nil, err
	}
	return netlink.LinkByName(t.Link)
}

// tune sets the switches of a tunnel; those that others set for "all" stay theirs.
func tune(link string) error {
	return sysctl.Tune(link, [][2]string{
		{"net/ipv4/conf/%/forwarding", "1"},
		{"net/ipv4/conf/%/rp_filter", "0"}, // a peer may choose another way than we do
		{"net/ipv4/conf/%/send_redirects", "0"},
		{"net/ipv4/conf/%/accept_redirects", "0"},
		{"net/ipv6/conf/%/disable_ipv6", "0"},
		{"net/ipv6/conf/%/addr_gen_mode", "1"}, // none: there is nobody to ask for routers
		{"net/ipv6/conf/%/accept_ra", "0"},
		{"net/ipv6/conf/%/accept_redirects", "0"},
		{"net/ipv6/conf/%/forwarding", "1"},
		{"net/ipv6/conf/%/force_forwarding", "1"},
	})
}

// introduce tells the link of its peers: the hardware address of each next hop, and the
// node behind each hardware address. Others are forgotten.
func introduce(index int, t mesh.Tunnel) error {
	var want []netlink.Neigh
	for _, r := range t.Remotes {
		want = append(want, netlink.Neigh{
			LinkIndex: index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP,
			HardwareAddr: r.MAC, IP: r.At.AsSlice(),
		})
		for _, a := range r.NextHops {
			want = append(want, netlink.Neigh{LinkIndex: index, Family: familyOf(a), State: netlink.NUD_PERMANENT, HardwareAddr: r.MAC, IP: a.AsSlice()})
		}
	}
	var have []netlink.Neigh
	for _, family := range []int{unix.AF_BRIDGE, netlink.FAMILY_V4, netlink.FAMILY_V6} {
		found, err := netlink.NeighList(index, family)
		if err != nil {
			return fmt.Errorf("list the neighbours of %s: %w", t.Link, err)
		}
		for _, n := range found {
			if n.State&netlink.NUD_PERMANENT != 0 {
				n.Family = family
				have = append(have, n)
			}
		}
	}
	same := func(a, b netlink.Neigh) bool {
		return a.Family == b.Family && a.IP.Equal(b.IP) && bytes.Equal(a.HardwareAddr, b.HardwareAddr)
	}
	in := func(list []netlink.Neigh, n netlink.Neigh) bool {
		return slices.ContainsFunc(list, func(o netlink.Neigh) bool { return same(n, o) })
	}
	for _, n := range want {
		if in(have, n) {
			continue
		}
		if err := netlink.NeighSet(&n); err != nil {
			return fmt.Errorf("tell %s of %s: %w", t.Link, n.IP, err)
		}
	}
	for _, n := range have {
		// What shares its key with one that is wanted was replaced by it.
		replaced := slices.ContainsFunc(want, func(w netlink.Neigh) bool {
			return w.Family == n.Family && (n.Family == unix.AF_BRIDGE && bytes.Equal(w.HardwareAddr, n.HardwareAddr) ||
				n.Family != unix.AF_BRIDGE && w.IP.Equal(n.IP))
		})
		if replaced {
			continue
		}
		if n.Family == unix.AF_BRIDGE {
			n.Flags = netlink.NTF_SELF
		}
		if err := netlink.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("have %s forget %s: %w", t.Link, n.IP, err)
		}
	}
	return nil
}

// closeTunnels removes the tunnels that nobody needs any more.
func closeTunnels(wanted []mesh.Tunnel) error {
	for _, name := range []string{mesh.TunnelIPv4, mesh.TunnelIPv6} {
		if slices.ContainsFunc(wanted, func(t mesh.Tunnel) bool { return t.Link == name }) {
			continue
		}
		link, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) || err == nil && link.Type() != "vxlan" {
			continue
		}
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			return fmt.Errorf("remove the tunnel %s: %w", name, err)
		}
	}
	return nil
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}
