//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/vishvananda/netlink"
)

// retryEvery is the pause between attempts of a client that got no answer. The
// clients themselves repeat each message within an attempt.
const retryEvery = time.Second

// configure brings the link up and gets an address of each family, each in its
// own time: a network may lack one of them.
func configure(ctx context.Context, host *identity) {
	if err := bringUp(link); err != nil {
		log.Printf("network: %v", err)
		return
	}
	resolver := &resolvConf{}
	var both sync.WaitGroup
	both.Go(func() { untilDone(ctx, "DHCPv4", func() error { return leaseV4(ctx, host, resolver) }) })
	both.Go(func() { untilDone(ctx, "DHCPv6", func() error { return leaseV6(ctx, resolver) }) })
	both.Wait()
}

func bringUp(name string) error {
	if name == link {
		// Duplicate address detection costs a second of each test's time; the
		// link has no other machine on it.
		path := "/proc/sys/net/ipv6/conf/" + link + "/accept_dad"
		if err := os.WriteFile(path, []byte("0"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			log.Printf("network: %v", err)
		}
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find the link %s: %w", name, err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// untilDone repeats do until it succeeds and logs each new reason of failure.
func untilDone(ctx context.Context, what string, do func() error) {
	last := ""
	for {
		err := do()
		if err == nil {
			return
		}
		if err.Error() != last {
			last = err.Error()
			log.Printf("%s: %v", what, err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryEvery):
		}
	}
}

func leaseV4(ctx context.Context, host *identity, resolver *resolvConf) error {
	client, err := nclient4.New(link, nclient4.WithTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	lease, err := client.Request(ctx, dhcpv4.WithRequestedOptions(
		dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionHostName, dhcpv4.OptionInterfaceMTU))
	if err != nil {
		return err
	}
	ack := lease.ACK
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = net.CIDRMask(32, 32)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ack.YourIPAddr, Mask: mask}}
	if err := netlink.AddrReplace(l, addr); err != nil {
		return fmt.Errorf("set the address %s: %w", addr, err)
	}
	if err := addRoutes(l, ack); err != nil {
		return err
	}
	if name := ack.HostName(); name != "" {
		host.set(name)
	}
	var search []string
	if s := ack.DomainSearch(); s != nil {
		search = s.Labels
	}
	fmt.Printf("address %s by DHCPv4, hostname %s\n", addr.IPNet, host.get())
	return resolver.add(ack.DNS(), search)
}

// addRoutes installs option 121 or, without it, option 3 (RFC 3442: a client
// that got the former ignores the latter). Gateways are on the link even where
// the address is a /32.
func addRoutes(l netlink.Link, ack *dhcpv4.DHCPv4) error {
	routes := ack.ClasslessStaticRoute()
	if len(routes) == 0 {
		for _, router := range ack.Router() {
			routes = append(routes, &dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Router: router})
		}
	}
	for _, r := range routes {
		route := netlink.Route{LinkIndex: l.Attrs().Index, Dst: r.Dest}
		if r.Router.IsUnspecified() {
			route.Scope = netlink.SCOPE_LINK
		} else {
			route.Gw, route.Flags = r.Router, int(netlink.FLAG_ONLINK)
		}
		if err := netlink.RouteReplace(&route); err != nil {
			return fmt.Errorf("set the route %s: %w", r, err)
		}
	}
	return nil
}

// leaseV6 gets the managed address; the default route comes from the kernel's
// own handling of router advertisements.
func leaseV6(ctx context.Context, resolver *resolvConf) error {
	client, err := nclient6.New(link, nclient6.WithTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Close()
	offer, err := client.Solicit(ctx, dhcpv6.WithRequestedOptions(dhcpv6.OptionDNSRecursiveNameServer, dhcpv6.OptionDomainSearchList))
	if err != nil {
		return err
	}
	reply, err := client.Request(ctx, offer)
	if err != nil {
		return err
	}
	ia := reply.Options.OneIANA()
	if ia == nil || ia.Options.OneAddress() == nil {
		return errors.New("the server's reply has no address")
	}
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ia.Options.OneAddress().IPv6Addr, Mask: net.CIDRMask(128, 128)}}
	if err := netlink.AddrReplace(l, addr); err != nil {
		return fmt.Errorf("set the address %s: %w", addr, err)
	}
	var search []string
	if s := reply.Options.DomainSearchList(); s != nil {
		search = s.Labels
	}
	fmt.Printf("address %s by DHCPv6\n", addr.IPNet)
	return resolver.add(reply.Options.DNS(), search)
}

// resolvConf collects what both protocols say into /etc/resolv.conf.
type resolvConf struct {
	mu      sync.Mutex // guards the following
	servers []string
	search  []string
}

func (r *resolvConf) add(servers []net.IP, search []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range servers {
		r.servers = appendNew(r.servers, s.String())
	}
	for _, s := range search {
		r.search = appendNew(r.search, s)
	}
	var b strings.Builder
	for _, s := range r.servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(r.search) > 0 {
		// ndots as Kubernetes sets it for pods, so that svc.namespace is found.
		fmt.Fprintf(&b, "search %s\noptions ndots:5\n", strings.Join(r.search, " "))
	}
	return os.WriteFile("/etc/resolv.conf", []byte(b.String()), 0o644)
}

func appendNew(list []string, s string) []string {
	for _, l := range list {
		if l == s {
			return list
		}
	}
	return append(list, s)
}
