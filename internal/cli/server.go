package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/controllers/system"
)

// server is the API side of `portico up`.
type server struct {
	api       *apiserver.Server
	store     store
	authority *certs.Authority
	serving   *certs.Serving
	loopback  *rest.Config
	kube      kubernetes.Interface
	more      []net.Listener // further addresses where the API listens
	audit     io.Closer      // nil: no audit log
	url       string
	log       *slog.Logger
}

// openServer opens the store and builds the API server; nothing is answered yet.
// Whatever it took is given back when it fails.
func openServer(ctx context.Context, o *options, doors apiserver.Doors, log *slog.Logger) (_ *server, err error) {
	s := &server{log: log}
	listener, err := listenTCP("--listen", o.listen)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
			listener.Close()
		}
	}()
	port := listener.Addr().(*net.TCPAddr).Port
	for _, a := range o.advertised {
		l, err := listenTCP("--advertise-address", netip.AddrPortFrom(a, uint16(port)).String())
		if err != nil {
			return nil, err
		}
		s.more = append(s.more, l)
	}
	if s.authority, err = certs.Open(filepath.Join(o.dataDir, "pki"), time.Now); err != nil {
		return nil, err
	}
	key, err := certs.OpenSigningKey(filepath.Join(o.dataDir, "pki"))
	if err != nil {
		return nil, err
	}
	audit, err := openAuditLog(o.auditLog)
	if err != nil {
		return nil, err
	}
	if audit != nil {
		s.audit = audit
	}
	if s.serving, err = certs.NewServing(s.authority, servingNames(o), servingAddresses(o)); err != nil {
		return nil, err
	}
	if s.store, err = openStore(ctx, o, log); err != nil {
		return nil, err
	}
	s.api, err = apiserver.New(ctx, apiserver.Config{
		Store: s.store, Authority: s.authority, Serving: s.serving, SigningKey: key, Listener: listener,
		ServiceCIDRs: o.services, GuestCIDRs: o.guests, NodePortFirst: o.firstPort, NodePortLast: o.lastPort,
		ClusterDomain: o.clusterDomain, Doors: doors, Logger: log, Version: version(),
		Audit: audit, Limits: o.limits, Profiling: o.profiling, Snapshot: snapshots(s.store, o.dataDir),
	})
	if err != nil {
		return nil, err
	}
	s.loopback = s.api.LocalConfig()
	if s.kube, err = kubernetes.NewForConfig(s.loopback); err != nil {
		return nil, fmt.Errorf("make a client of the API: %w", err)
	}
	s.url = "https://" + net.JoinHostPort(hostFor(o.listenAddr.Addr()), strconv.Itoa(port))
	return s, nil
}

// hostFor is how a client on this host reaches a listener.
func hostFor(a netip.Addr) string {
	switch {
	case a.IsUnspecified() && a.Is4():
		return "127.0.0.1"
	case a.IsUnspecified():
		return "::1"
	}
	return a.String()
}

func servingNames(o *options) []string {
	svc := system.APIService + ".default"
	return []string{"localhost", o.nodeName, system.APIService, svc, svc + ".svc", svc + ".svc." + o.clusterDomain}
}

func servingAddresses(o *options) []netip.Addr {
	addrs := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, p := range o.services {
		addrs = append(addrs, system.HostOf(p, 1))
	}
	if !o.listenAddr.Addr().IsUnspecified() {
		addrs = append(addrs, o.listenAddr.Addr())
	}
	return append(addrs, o.advertised...)
}

// run serves until ctx ends, then until requests under way are answered.
func (s *server) run(ctx context.Context) error {
	for _, l := range s.more {
		if _, err := s.api.ServeOn(ctx, l); err != nil {
			return err
		}
	}
	return s.api.Run(ctx)
}

// readyPoll is short: a start takes about a second, of which people feel a tenth.
const readyPoll = 20 * time.Millisecond

// waitReady returns once /readyz says ok.
func (s *server) waitReady(ctx context.Context) error {
	ticker := time.NewTicker(readyPoll)
	defer ticker.Stop()
	for {
		_, err := s.kube.CoreV1().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the API server did not get ready: %w", err)
		case <-ticker.C:
		}
	}
}

func (s *server) close() {
	for _, l := range s.more {
		l.Close()
	}
	if s.store != nil {
		s.store.Close()
	}
	if s.audit != nil {
		s.audit.Close()
	}
}
