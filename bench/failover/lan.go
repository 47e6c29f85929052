package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"portico.dev/portico/bench/network"
	"portico.dev/portico/bench/process"
)

// uplink is the name of a host's link to the LAN.
const uplink = "uplink"

// Addresses on every LAN; each contender has a LAN of its own, all alike (RFC 5737).
var (
	apiAddress      = netip.MustParsePrefix("192.0.2.254/24")
	clientAddress   = netip.MustParsePrefix("192.0.2.9/24")
	observerAddress = netip.MustParsePrefix("192.0.2.10/24")
	webAddress      = netip.MustParseAddr("192.0.2.200")
	// manyRange has the addresses of which a thousand move at once. No subnet has it: who
	// asks for them is the observer.
	manyRange = netip.MustParsePrefix("198.18.0.0/21")
)

const (
	webPort     = 80
	backendPort = 8080
)

// lan is a switch with the API on it, three nodes, a client and an observer.
type lan struct {
	sw, client, watcher *network.Host
	nodes               []*node
	ports               int
}

// node is a host with a server that answers for the Service.
type node struct {
	*network.Host
	name    string
	address netip.Addr
	mac     net.HardwareAddr
	port    netlink.Link // of the switch
	server  *net.UDPConn
	agent   *process.Process // ours or the peer's; nil: killed
	starts  int
}

func newLAN() (_ *lan, err error) {
	l := &lan{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.sw, err = network.NewHost(nil); err != nil {
		return nil, err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = uplink
	// Without one of its own a bridge takes the lowest hardware address of its ports
	// (br_stp_recalculate_bridge_id). The API would then have another one while that port is
	// unplugged, and nodes that learn it would miss the API for half a minute afterwards.
	bridge.HardwareAddr = net.HardwareAddr{0x02, 0, 0, 0, 0, 0xfe}
	if err := l.sw.Links.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("make the switch: %w", err)
	}
	if err := network.Address(l.sw.Links, uplink, apiAddress); err != nil {
		return nil, err
	}
	if err := network.Up(l.sw.Links, uplink); err != nil {
		return nil, err
	}
	if l.client, _, err = l.host(clientAddress, nil); err != nil {
		return nil, err
	}
	if l.watcher, _, err = l.host(observerAddress, nil); err != nil {
		return nil, err
	}
	for i, name := range []string{"a", "b", "c"} {
		if err := l.addNode(name, netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})); err != nil {
			return nil, fmt.Errorf("make node %s: %w", name, err)
		}
	}
	return l, nil
}

// host adds one; it gives its port of the switch, too.
func (l *lan) host(at netip.Prefix, sysctls map[string]string) (h *network.Host, port netlink.Link, err error) {
	if h, err = network.NewHost(sysctls); err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	l.ports++
	name := fmt.Sprint("port", l.ports)
	if err := network.Wire(l.sw.Links, name, netip.Prefix{}, h, uplink, at); err != nil {
		return nil, nil, err
	}
	if port, err = l.sw.Links.LinkByName(name); err != nil {
		return nil, nil, err
	}
	return h, port, l.plug(port)
}

func (l *lan) addNode(name string, at netip.Addr) (err error) {
	n := &node{name: name, address: at}
	// With arp_ignore the kernel answers for no address of another link: who announces is
	// to do that alone. Proxies that keep such addresses on the host want the same.
	sysctls := map[string]string{"ipv4/ip_forward": "1", "ipv4/conf/all/arp_ignore": "1", "ipv4/conf/all/arp_announce": "2"}
	if n.Host, n.port, err = l.host(netip.PrefixFrom(at, 24), sysctls); err != nil {
		return err
	}
	l.nodes = append(l.nodes, n)
	link, err := n.Links.LinkByName(uplink)
	if err == nil {
		n.mac = link.Attrs().HardwareAddr
	}
	return err
}

// serve answers each datagram with the same and the node's name.
func (n *node) serve(at netip.AddrPort) error {
	err := n.Do(func() error {
		c, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp4", at.String())
		if err == nil {
			n.server = c.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("serve on node %s: %w", n.name, err)
	}
	go func() { // ends when close closes the socket
		b := make([]byte, 512)
		for {
			size, from, err := n.server.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = n.server.WriteToUDPAddrPort(append(b[:size:size], n.name...), from) // a lost one is counted by the client
		}
	}()
	return nil
}

// plug puts a cable into the switch; unplug takes it out, and its host's link keeps its
// carrier.
func (l *lan) plug(port netlink.Link) error {
	bridge, err := l.sw.Links.LinkByName(uplink)
	if err != nil {
		return err
	}
	return l.sw.Links.LinkSetMaster(port, bridge)
}

func (l *lan) unplug(port netlink.Link) error { return l.sw.Links.LinkSetNoMaster(port) }

// setLink brings the node's own end of its cable up or down.
func (n *node) setLink(up bool) error {
	if up {
		return network.Up(n.Links, uplink)
	}
	link, err := n.Links.LinkByName(uplink)
	if err != nil {
		return err
	}
	return n.Links.LinkSetDown(link)
}

// signal tells the agent's process, if there is one.
func (n *node) signal(s unix.Signal) {
	if n.agent != nil {
		_ = unix.Kill(n.agent.ID(), s) // it may have ended
	}
}

// kill ends the agent without a word.
func (n *node) kill() {
	if n.agent != nil {
		n.agent.Kill()
		n.agent = nil
	}
}

func (l *lan) close() {
	for _, n := range l.nodes {
		n.kill()
		if n.server != nil {
			_ = n.server.Close()
		}
		n.Close()
	}
	for _, h := range []*network.Host{l.watcher, l.client, l.sw} {
		if h != nil {
			h.Close()
		}
	}
}

// object is one of the API, in JSON.
type object map[string]any

func (o object) body() []byte {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err) // only maps, lists, texts and numbers are given
	}
	return raw
}
