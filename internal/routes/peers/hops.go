package peers

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/internal/core/mesh"
)

// Hops finds how this host reaches each address of the nodes.
func Hops(nodes []mesh.Node) (map[netip.Addr]mesh.Hop, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list this host's links: %w", err)
	}
	byIndex := make(map[int]*netlink.LinkAttrs, len(links))
	for _, l := range links {
		byIndex[l.Attrs().Index] = l.Attrs()
	}
	out := map[netip.Addr]mesh.Hop{}
	for _, n := range nodes {
		for _, a := range n.Addresses {
			if out[a], err = hop(a, byIndex); err != nil {
				return nil, fmt.Errorf("look for the way to %s of node %s: %w", a, n.Name, err)
			}
		}
	}
	return out, nil
}

// hop asks the kernel which of its routes leads to an address.
func hop(a netip.Addr, links map[int]*netlink.LinkAttrs) (mesh.Hop, error) {
	// The route as it stands, not what became of it: its destination tells a link's
	// own network from a default route without a gateway.
	found, err := netlink.RouteGetWithOptions(a.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.EACCES), errors.Is(err, unix.EINVAL):
		return mesh.Hop{}, nil // no route, or one that refuses (RTN_UNREACHABLE, RTN_PROHIBIT, RTN_BLACKHOLE)
	case err != nil:
		return mesh.Hop{}, err
	case len(found) == 0 || found[0].Type != unix.RTN_UNICAST:
		return mesh.Hop{}, nil
	}
	r := found[0]
	index, gateway := r.LinkIndex, len(r.Gw) > 0 || r.Via != nil
	if len(r.MultiPath) > 0 {
		index, gateway = r.MultiPath[0].LinkIndex, true
	}
	link := links[index]
	if link == nil {
		return mesh.Hop{}, nil // it went away meanwhile, and that is news
	}
	h := mesh.Hop{Link: link.Name, MTU: link.MTU, LinkMTU: link.MTU}
	learnt, err := pathMTU(a)
	if err != nil {
		return mesh.Hop{}, err
	}
	for _, mtu := range []int{r.MTU, learnt} {
		if mtu > 0 && mtu < h.MTU {
			h.MTU = mtu
		}
	}
	bits := 0
	if r.Dst != nil {
		bits, _ = r.Dst.Mask.Size()
	}
	// Only where neighbours are asked for does a packet get to the peer itself, whatever
	// its destination: not on links between two points or with keys for addresses.
	asks := link.Flags&net.FlagBroadcast != 0 && link.RawFlags&(unix.IFF_NOARP|unix.IFF_POINTOPOINT) == 0
	h.OnLink = !gateway && bits > 0 && asks
	return h, nil
}

// pathMTU is what routers have told this host of the way to an IPv6 address; 0: nothing.
// They make no fragments (RFC 8200 section 5), so what is larger gets lost. For IPv4 they
// do, and the tunnel lets them.
func pathMTU(a netip.Addr) (int, error) {
	if a.Is4() {
		return 0, nil
	}
	found, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(found) == 0 {
		return 0, err
	}
	return found[0].MTU, nil
}
