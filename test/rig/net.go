package rig

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// host gives the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// Wire makes a veth pair between two hosts and brings it up.
func Wire(a *Host, aName string, b *Host, bName string) error {
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: bName, PeerNamespace: netlink.NsFd(b.ns)}
	v.Name = aName
	if err := a.Links.LinkAdd(v); err != nil {
		return fmt.Errorf("wire %s/%s to %s/%s: %w", a.Name, aName, b.Name, bName, err)
	}
	for _, end := range []struct {
		h    *Host
		link string
	}{{a, aName}, {b, bName}} {
		if err := end.h.up(end.link); err != nil {
			return fmt.Errorf("bring up %s/%s: %w", end.h.Name, end.link, err)
		}
	}
	return nil
}

// Uplink is the name of a host's link to a LAN.
const Uplink = "uplink"

// LAN is a switch that hosts connect to.
type LAN struct {
	sw    *Host
	ports int
}

// NewLAN makes a switch.
func NewLAN(t T) *LAN {
	t.Helper()
	l := &LAN{sw: NewHost(t, "lan")}
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name = "br"
	l.sw.must(t, "add bridge", l.sw.Links.LinkAdd(br))
	l.sw.must(t, "bring up bridge", l.sw.up("br"))
	return l
}

// Connect gives a host the link Uplink to the LAN with addresses.
func (l *LAN) Connect(t T, h *Host, addrs ...netip.Prefix) {
	t.Helper()
	port := fmt.Sprintf("port%d", l.ports)
	l.ports++
	h.must(t, "wire to the LAN", Wire(l.sw, port, h, Uplink))
	br, err := l.sw.Links.LinkByName("br")
	h.must(t, "find bridge", err)
	p, err := l.sw.Links.LinkByName(port)
	h.must(t, "find port", err)
	h.must(t, "add port to bridge", l.sw.Links.LinkSetMaster(p, br))
	for _, a := range addrs {
		h.must(t, "address", h.AddAddr(Uplink, a))
	}
}

// Gateway addresses and hardware address that every guest sees on its link.
var (
	gateway4   = netip.MustParseAddr("169.254.1.1")
	gateway6   = netip.MustParseAddr("fe80::1")
	gatewayMAC = net.HardwareAddr{0x02, 0x70, 0x6f, 0, 0, 0x01}
)

// PorticoLink is the bridge without ports that carries a node's own addresses.
const PorticoLink = "portico0"

// NodeConfig describes a node.
type NodeConfig struct {
	Name     string
	Pods     []netip.Prefix // the node's pod ranges; portico0 owns their first addresses
	Services []netip.Prefix // routed to portico0
}

// Node is a host that forwards between guests on routed links and its uplink.
type Node struct {
	*Host
	PorticoAddrs []netip.Addr // on portico0, one per pod range
	guests       int
}

// NewNode makes a node.
func NewNode(t T, cfg NodeConfig) *Node {
	t.Helper()
	n := &Node{Host: NewHost(t, cfg.Name)}
	n.must(t, "forward", n.Forward())
	br := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	br.Name = PorticoLink
	n.must(t, "add portico0", n.Links.LinkAdd(br))
	n.must(t, "bring up portico0", n.up(PorticoLink))
	for _, p := range cfg.Pods {
		first := p.Masked().Addr().Next()
		n.must(t, "address", n.AddAddr(PorticoLink, netip.PrefixFrom(first, p.Bits())))
		n.PorticoAddrs = append(n.PorticoAddrs, first)
	}
	for _, p := range cfg.Services {
		n.must(t, "service route", n.AddRoute(Route{To: p, Link: PorticoLink, Src: n.source(p.Addr())}))
	}
	return n
}

// source gives the node's address on portico0 of like's family.
func (n *Node) source(like netip.Addr) netip.Addr {
	for _, a := range n.PorticoAddrs {
		if a.Is4() == like.Is4() {
			return a
		}
	}
	return netip.Addr{}
}

// Guest makes a host on a routed link of its own: host routes on the node, the
// same gateway for all guests, no shared segment.
func (n *Node) Guest(t T, name string, addrs ...netip.Addr) *Host {
	t.Helper()
	g := NewHost(t, name)
	tap := fmt.Sprintf("tap%d", n.guests)
	n.guests++
	n.must(t, "wire guest", Wire(n.Host, tap, g, "eth0"))
	l, err := n.Links.LinkByName(tap)
	n.must(t, "find tap", err)
	n.must(t, "set gateway's MAC", n.Links.LinkSetHardwareAddr(l, gatewayMAC))
	n.must(t, "gateway address", n.AddAddr(tap, host(gateway4)))
	n.must(t, "gateway address", n.AddAddr(tap, netip.PrefixFrom(gateway6, 64)))
	for _, a := range addrs {
		g.must(t, "address", g.AddAddr("eth0", host(a)))
		n.must(t, "route to guest", n.AddRoute(Route{To: host(a), Link: tap, Src: n.source(a)}))
	}
	g.must(t, "default route", g.AddRoute(Route{To: netip.MustParsePrefix("0.0.0.0/0"), Link: "eth0", Via: gateway4, OnLink: true}))
	g.must(t, "default route", g.AddRoute(Route{To: netip.MustParsePrefix("::/0"), Link: "eth0", Via: gateway6}))
	return g
}
