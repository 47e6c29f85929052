package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"

	"github.com/vishvananda/netlink"

	"portico.dev/portico/bench/network"
)

// guestCommand makes this program a guest's: it lays the network of a site's node, waits for
// an order, and starts the contender.
const guestCommand = "guest"

// A guest's links, in the order of its cards, and what it is told by.
const (
	guestUplink  = "eth0"
	guestClient  = "eth1"
	guestBackend = "eth2"
	orderPort    = 7000
	guestConfig  = "/tmp/node.kubeconfig"
)

var (
	hubToGuest = netip.MustParsePrefix("198.18.255.1/30")
	guestToHub = netip.MustParsePrefix("198.18.255.2/30")
)

// order is what a guest starts.
type order struct {
	Kubeconfig []byte
	Argv       []string
}

// guest is all that goes on in one. It ends with the contender.
func guest() error {
	if err := layGuest(); err != nil {
		return fmt.Errorf("lay the guest's network: %w", err)
	}
	l, err := net.Listen("tcp4", netip.AddrPortFrom(guestToHub.Addr(), orderPort).String())
	if err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	var o order
	if err := json.NewDecoder(c).Decode(&o); err != nil {
		return fmt.Errorf("read the order: %w", err)
	}
	if err := os.WriteFile(guestConfig, o.Kubeconfig, 0o600); err != nil {
		return err
	}
	cmd := exec.Command(o.Argv[0], o.Argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

// layGuest makes the guest what lay makes of a site's node.
func layGuest() error {
	for key, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
		"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+key, []byte(value), 0o644); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	links, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer links.Close()
	if err := network.Up(links, "lo"); err != nil {
		return err
	}
	for _, end := range []struct {
		link string
		at   netip.Prefix
	}{{guestUplink, guestToHub}, {guestClient, nodeToClient}, {guestBackend, nodeToBackend}} {
		if err := network.Address(links, end.link, end.at); err != nil {
			return err
		}
		if err := network.Up(links, end.link); err != nil {
			return err
		}
	}
	for _, r := range []struct {
		to   netip.Prefix
		link string
		via  netip.Addr
	}{
		{everywhere, guestUplink, hubToGuest.Addr()},
		{single(clientAddr), guestClient, netip.Addr{}},
		{backendRange, guestBackend, backendAddr.Addr()},
	} {
		if err := network.Route(links, r.to, r.link, r.via); err != nil {
			return err
		}
	}
	return nil
}
