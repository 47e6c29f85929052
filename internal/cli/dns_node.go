package cli

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/dns/resolved"
	"portico.dev/portico/internal/routes"
)

// startNames starts the node's DNS server at the node's own addresses.
func (n *nodeRun) startNames() (err error) {
	if n.names, err = n.o.newNames(append(n.own(), n.addresses.All()...), n.log); err != nil {
		return err
	}
	var at []netip.AddrPort
	for _, a := range n.own() {
		at = append(at, netip.AddrPortFrom(a, dnsPort))
	}
	var certificate func(netip.Addr) (getCertificate, error)
	if n.keys != nil {
		certificate = n.keys.certificate
	}
	udp, tcp, err := n.o.listenNames(n.ctx, at, certificate, n.log)
	if err != nil {
		return err
	}
	n.start("DNS", func(ctx context.Context) error { return n.names.Serve(ctx, udp, tcp) })
	n.start("DNS settings", func(ctx context.Context) error { return n.o.followDNSSettings(ctx, n.kube, n.names, n.log) })
	n.start("DNS names of pods", func(ctx context.Context) error { return n.o.followPods(ctx, n.kube, n.names, n.log) })
	if n.o.dns.onHost {
		return n.startNamesOnHost()
	}
	return nil
}

// startNamesOnHost has the host's own programs find the cluster's names, until the node
// ends; what is left by a crash goes with the link.
func (n *nodeRun) startNamesOnHost() error {
	link, err := net.InterfaceByName(routes.Bridge)
	if err != nil {
		return fmt.Errorf("look up %s: %w", routes.Bridge, err)
	}
	domains := []string{n.o.clusterDomain}
	for _, p := range slices.Concat(n.o.services, n.o.cluster, n.o.guests) {
		domains = append(domains, records.ReverseZones(p)...)
	}
	n.start("names on this host", func(ctx context.Context) error {
		return resolved.Keep(ctx, resolved.Link{Index: link.Index, Servers: n.own(), Domains: domains, Log: n.log})
	})
	return nil
}
