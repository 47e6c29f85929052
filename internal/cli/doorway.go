package cli

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/node/door"
)

// doorPort is the kubelet's: API servers and firewalls expect a door there.
const doorPort = 10250

// doorway has the node's door open at each of the node's addresses, whichever those
// are now (NET-04). One goroutine at a time uses it.
type doorway struct {
	node      string
	authority *certs.Authority
	source    door.Source
	log       *slog.Logger
	start     func(name string, f func(context.Context) error)

	open map[netip.Addr]func() // what shuts each
}

// follow opens the door at addresses that are new, and closes it at those that went.
func (d *doorway) follow(addrs []netip.Addr) error {
	for a, shut := range d.open {
		if !slices.Contains(addrs, a) {
			shut()
			delete(d.open, a)
		}
	}
	for _, a := range addrs {
		if d.open[a] != nil {
			continue
		}
		if err := d.openAt(a); err != nil {
			return err
		}
	}
	return nil
}

// openAt gives each address a certificate of its own, which renews itself.
func (d *doorway) openAt(a netip.Addr) error {
	leaf, err := d.authority.ServerLeaf("system:node:"+d.node, []string{d.node}, []netip.Addr{a})
	if err != nil {
		return err
	}
	server, err := door.New(door.Config{
		TLS: &tls.Config{
			GetCertificate: leaf.GetCertificate, ClientCAs: d.authority.Pool(),
			ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
		},
		Allow: door.AllowNames(apiServerName), Source: d.source, Log: d.log,
	})
	if err != nil {
		return err
	}
	l, err := listenTCP("the node's door", netip.AddrPortFrom(a, doorPort).String())
	if err != nil {
		return err
	}
	shut := make(chan struct{})
	d.open[a] = sync.OnceFunc(func() { close(shut) })
	d.start("door", func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		served := make(chan error, 1)
		go func() { served <- server.Serve(ctx, l) }()
		defer cancel()
		select {
		case err := <-served:
			return err
		case <-shut:
			cancel()
			return <-served
		}
	})
	return nil
}
