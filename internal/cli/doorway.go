package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"slices"
	"sync"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/core/rbac"
	"portico.dev/portico/internal/node/door"
)

// doorPort is the kubelet's: API servers and firewalls expect a door there.
const doorPort = 10250

// doorway has the node's door open at each of the node's addresses, whichever those
// are now (NET-04). One goroutine at a time uses it.
type doorway struct {
	keys   *doorKeys
	source door.Source
	log    *slog.Logger
	start  func(name string, f func(context.Context) error)

	open map[netip.Addr]func() // what shuts each
}

// doorKeys are what the door shows and whom it lets in.
type doorKeys struct {
	clients *x509.CertPool // the authorities of their certificates
	// follow hears of all addresses before certificate is asked for any of them.
	follow      func(addrs []netip.Addr)
	certificate func(a netip.Addr) (getCertificate, error)
}

// getCertificate is tls.Config's GetCertificate.
type getCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error)

// authorityKeys are those of a node whose process has the cluster's authority: each
// address has a certificate of its own, which renews itself.
func authorityKeys(authority *certs.Authority, node string) *doorKeys {
	return &doorKeys{
		clients: authority.Pool(),
		follow:  func([]netip.Addr) {},
		certificate: func(a netip.Addr) (getCertificate, error) {
			leaf, err := authority.ServerLeaf(rbac.NodeUserPrefix+node, []string{node}, []netip.Addr{a})
			if err != nil {
				return nil, err
			}
			return leaf.GetCertificate, nil
		},
	}
}

// memberKeys are those of a node that has joined: the cluster signs one certificate for
// all its addresses.
func memberKeys(keeper *bootstrap.Keeper) *doorKeys {
	return &doorKeys{
		clients: keeper.Pool(), follow: keeper.Serve,
		certificate: func(netip.Addr) (getCertificate, error) { return keeper.GetCertificate, nil },
	}
}

// follow opens the door at addresses that are new, and closes it at those that went.
func (d *doorway) follow(addrs []netip.Addr) error {
	d.keys.follow(addrs)
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

func (d *doorway) openAt(a netip.Addr) error {
	certificate, err := d.keys.certificate(a)
	if err != nil {
		return err
	}
	server, err := door.New(door.Config{
		TLS: &tls.Config{
			GetCertificate: certificate, ClientCAs: d.keys.clients,
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
