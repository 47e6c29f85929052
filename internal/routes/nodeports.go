package routes

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// PrimaryOnly is the value of --nodeport-addresses that names the primary addresses, as
// kube-proxy spells it.
const PrimaryOnly = "primary"

// ParseNodePorts reads the value of --nodeport-addresses: the ranges in which node ports
// answer, nil for the primary addresses.
func ParseNodePorts(value string) ([]netip.Prefix, error) {
	const flag = "--nodeport-addresses"
	if value == PrimaryOnly {
		return nil, nil
	}
	var out []netip.Prefix
	for s := range strings.SplitSeq(value, ",") {
		s = strings.TrimSpace(s)
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %q is not an address range; write ranges like 192.0.2.0/24,2001:db8::/64, or %s alone", flag, s, PrimaryOnly)
		case p.Addr().Is4In6():
			return nil, fmt.Errorf("%s %s is an IPv4 range in IPv6 notation; write it as IPv4", flag, p)
		case p != p.Masked():
			return nil, fmt.Errorf("%s %s has bits set beyond its length; did you mean %s, or %s?", flag, p, p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		case p.Addr().IsLoopback(): // kube-proxy's nftables mode doesn't serve them either
			return nil, fmt.Errorf("%s %s is loopback, where node ports don't answer; leave it out (the iptables data plane serves 127.0.0.1 with --iptables-localhost-nodeports)", flag, p)
		}
		for _, special := range specialRanges {
			if special.prefix.Bits() <= p.Bits() && special.prefix.Contains(p.Addr()) {
				return nil, fmt.Errorf("%s %s has %s addresses only (%s), where node ports don't answer; leave it out", flag, p, special.what, special.prefix)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// NodePortAddresses finds at which of this host's addresses node ports answer: the primary
// ones, or where ranges are given, all that are in one of them, of which there may be none.
func NodePortAddresses(ranges []netip.Prefix, primary Addresses) ([]netip.Addr, error) {
	if ranges == nil {
		return primary.All(), nil
	}
	links, all, err := readAddresses()
	if err != nil {
		return nil, err
	}
	return within(ranges, all, links), nil
}

// within chooses the addresses in ranges, sorted. Unlike for primary ones the loopback link's
// count, for people put addresses there that routers lead to, and deprecated ones, as those
// that move between hosts (VRRP) often are. Loopback and link-local addresses don't.
func within(ranges []netip.Prefix, all []netlink.Addr, links map[int]*netlink.LinkAttrs) []netip.Addr {
	out := []netip.Addr{}
	for _, a := range all {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		unusable := a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
		if !ok || !addr.IsGlobalUnicast() || links[a.LinkIndex] == nil || unusable {
			continue
		}
		if slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// readAddresses lists this host's addresses, and by their indexes the links that are up and
// not ours.
func readAddresses() (map[int]*netlink.LinkAttrs, []netlink.Addr, error) {
	all, err := netlink.LinkList()
	if err != nil {
		return nil, nil, fmt.Errorf("list this host's links: %w", err)
	}
	links := map[int]*netlink.LinkAttrs{}
	for _, l := range all {
		if a := l.Attrs(); a.Flags&net.FlagUp != 0 && !ours(a.Name) {
			links[a.Index] = a
		}
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, nil, fmt.Errorf("list this host's addresses: %w", err)
	}
	return links, addrs, nil
}
