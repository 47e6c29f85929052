package main

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/network"
)

// Addresses. Every site looks the same from its client; towards the API, nodes differ.
var (
	// apiAddress is where nodes find the API (RFC 2544's range for measurements).
	apiAddress = netip.MustParseAddr("198.19.0.1")
	// clusterRange has the clients, the backends and what nodes get for pods: traffic
	// within it is not masqueraded, by anybody.
	clusterRange = netip.MustParsePrefix("10.128.0.0/10")
	clientAddr   = netip.MustParseAddr("10.159.0.2")
	// backendRange are the endpoints of all Services, in one namespace.
	backendRange = netip.MustParsePrefix("10.160.0.0/11")
	everywhere   = netip.MustParsePrefix("0.0.0.0/0")

	nodeToClient  = netip.MustParsePrefix("169.254.2.1/32")
	nodeToBackend = netip.MustParsePrefix("169.254.3.1/32")
	backendAddr   = netip.MustParsePrefix("169.254.3.2/32")
)

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// hub is the namespace that this program runs in: the API is there, and every node has
// a wire to it.
type hub struct {
	links *netlink.Handle
	sites int // ever made
}

func newHub() (*hub, error) {
	links, err := netlink.NewHandle()
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	h := &hub{links: links}
	if err := network.Up(links, "lo"); err != nil {
		return nil, err
	}
	return h, network.Address(links, "lo", single(apiAddress))
}

// site is one contender's world: client -> node -> backends, by two wires.
type site struct {
	name                  string
	number                int // no other site of this run has it
	client, node, backend *network.Host
	address               netip.Addr // of the node, towards the API
	pace                  pace
	server                *server
	doors                 *doors
}

// Ports of closed connections are soon used again, and the kernel's memory of flows doesn't
// fill up: tens of thousands of connections a second are made.
var clientSysctls = map[string]string{"ipv4/ip_local_port_range": "1024 65535", "ipv4/tcp_tw_reuse": "1"}

// newSite makes one. The name is that of its node in the API.
func (h *hub) newSite(name string) (s *site, err error) {
	s = &site{name: name, pace: native}
	defer func() {
		if err != nil {
			s.close()
			s = nil
		}
	}()
	h.sites++
	s.number = h.sites
	block := netip.AddrFrom4([4]byte{198, 18, byte(h.sites >> 6), byte(h.sites << 2)}) // a /30 for each
	outer := block.Next()
	s.address = outer.Next()
	if s.client, err = network.NewHost(clientSysctls); err != nil {
		return nil, err
	}
	if s.node, err = network.NewHost(map[string]string{"ipv4/ip_forward": "1", "netfilter/nf_conntrack_tcp_timeout_time_wait": "5"}); err != nil {
		return nil, err
	}
	if s.backend, err = network.NewHost(nil); err != nil {
		return nil, err
	}
	if err := s.lay(h, outer); err != nil {
		return nil, err
	}
	return s, s.open()
}

// open has the backends listen.
func (s *site) open() (err error) {
	if s.server, err = serve(s.backend); err != nil {
		return err
	}
	s.doors, err = openDoors(s.backend)
	return err
}

// lay wires the site and lays its routes.
func (s *site) lay(h *hub, outer netip.Addr) error {
	const toHub, toClient, toBackend = "uplink", "client", "backend"
	if err := network.Wire(h.links, fmt.Sprint("site", h.sites), netip.PrefixFrom(outer, 30), s.node, toHub, netip.PrefixFrom(s.address, 30)); err != nil {
		return err
	}
	if err := network.Wire(s.node.Links, toClient, nodeToClient, s.client, "eth0", single(clientAddr)); err != nil {
		return err
	}
	if err := network.Wire(s.node.Links, toBackend, nodeToBackend, s.backend, "eth0", backendAddr); err != nil {
		return err
	}
	for _, r := range []struct {
		on   *network.Host
		to   netip.Prefix
		link string
		via  netip.Addr
	}{
		{s.node, everywhere, toHub, outer},
		{s.node, single(clientAddr), toClient, netip.Addr{}},
		{s.node, backendRange, toBackend, backendAddr.Addr()},
	} {
		if err := network.Route(r.on.Links, r.to, r.link, r.via); err != nil {
			return err
		}
	}
	return s.layEnds()
}

// layEnds lays the routes of the client and of the backends.
func (s *site) layEnds() error {
	for _, r := range []struct {
		on   *network.Host
		to   netip.Prefix
		link string
		via  netip.Addr
	}{
		{s.client, everywhere, "eth0", nodeToClient.Addr()},
		{s.backend, everywhere, "eth0", nodeToBackend.Addr()},
	} {
		if err := network.Route(r.on.Links, r.to, r.link, r.via); err != nil {
			return err
		}
	}
	// All addresses of the range are the backend's own.
	lo, err := s.backend.Links.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the link lo: %w", err)
	}
	local := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: network.IPNet(backendRange), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
	if err := s.backend.Links.RouteAdd(local); err != nil {
		return fmt.Errorf("make %s the backend's: %w", backendRange, err)
	}
	return nil
}

func (s *site) close() {
	if s == nil {
		return
	}
	if s.doors != nil {
		s.doors.close()
	}
	if s.server != nil {
		s.server.close()
	}
	for _, h := range []*network.Host{s.client, s.node, s.backend} {
		if h != nil {
			h.Close()
		}
	}
}
