package l2

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// iface is a link that addresses can be announced on.
type iface struct {
	name  string
	index int
	mac   mac
}

// scan finds the links of this network namespace where an announcement can be heard: up,
// with a carrier, Ethernet, no part of a bridge or bond, and with an address of its own.
// Links whose names begin with one of skip are the node's own works.
func scan(skip []string) ([]iface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list this host's links: %w", err)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list this host's addresses: %w", err)
	}
	addressed := map[int]bool{}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap().IsGlobalUnicast() {
			addressed[a.LinkIndex] = true
		}
	}
	var out []iface
	for _, l := range links {
		a := l.Attrs()
		const wanted, unwanted = unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_BROADCAST, unix.IFF_LOOPBACK | unix.IFF_NOARP | unix.IFF_POINTOPOINT
		if a.RawFlags&(wanted|unwanted) != wanted || a.MasterIndex != 0 || len(a.HardwareAddr) != 6 || !addressed[a.Index] ||
			slices.ContainsFunc(skip, func(s string) bool { return strings.HasPrefix(a.Name, s) }) {
			continue
		}
		out = append(out, iface{name: a.Name, index: a.Index, mac: mac(a.HardwareAddr)})
	}
	slices.SortFunc(out, func(a, b iface) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// net gives the form that sockets are opened with.
func (i iface) net() *net.Interface {
	return &net.Interface{Index: i.index, Name: i.name, HardwareAddr: i.mac[:]}
}
