package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/announce/greet"
	"portico.dev/portico/internal/controllers/system"
	"portico.dev/portico/internal/core/rbac"
)

func newUp() *cobra.Command {
	o := &options{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the API, the controllers and this node's agent",
		Long: `Run Portico on this host: the API server with its store, the controllers, and the
agent that handles this node's packets, names and guests. It stops on SIGTERM; guests
go on running, and the next start finds them again. ` + "`portico down`" + ` ends everything.`,
		Example: `  portico up
  portico up --no-agent --data-dir ~/portico --listen 127.0.0.1:6443
  portico up --nodeport-addresses 192.0.2.0/24,2001:db8::/64
  portico up --config /etc/portico.yaml`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.readConfig(cmd); err != nil {
				return err
			}
			return up(cmd.Context(), o, newLogger())
		},
	}
	o.nodeFlags(cmd.Flags())
	o.serverFlags(cmd.Flags())
	return cmd
}

// up checks everything first, so that a start that can't work changes nothing.
func up(ctx context.Context, o *options, log *slog.Logger) error {
	begin := time.Now()
	if err := o.complete(); err != nil {
		return err
	}
	if err := o.completeServer(); err != nil {
		return err
	}
	if !o.noAgent {
		if o.dataplane != userspaceName { // who forgot sudo shall hear of it
			if err := needRoot(); err != nil {
				return err
			}
		}
		if err := checkHost(o, log); err != nil {
			return err
		}
	}
	release, err := prepareDataDir(o.dataDir)
	if err != nil {
		return err
	}
	defer release()
	if !o.noAgent {
		release, err := claimNamespace()
		if err != nil {
			return err
		}
		defer release()
		if err := o.checkMetrics(); err != nil {
			return err
		}
	}
	return (&upRun{o: o, log: log, begin: begin}).run(ctx)
}

// upRun is one run of `portico up`.
type upRun struct {
	o     *options
	log   *slog.Logger
	begin time.Time
}

// run starts the parts in their order and stops them in the reverse one: the agent
// and the controllers while the API still answers, the store last.
func (u *upRun) run(ctx context.Context) error {
	doors := newDoors()
	s, err := openServer(ctx, u.o, doors, u.log)
	if err != nil {
		return err
	}
	defer s.close()
	if text := authorityEnding(u.o.dataDir, s.authority.End(), time.Now()); text != "" {
		u.log.Warn(text)
	}
	if err := u.o.writeRunRecord(); err != nil {
		return err
	}
	apiCtx, stopAPI := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAPI()
	apiEnded := make(chan error, 1)
	go func() { apiEnded <- s.run(apiCtx) }()

	workCtx, stopWork := context.WithCancelCause(ctx)
	defer stopWork(nil)
	var apiErr error
	apiDown := make(chan struct{})
	go func() {
		defer close(apiDown)
		if apiErr = <-apiEnded; apiErr != nil {
			stopWork(apiErr)
		}
	}()
	err = u.work(workCtx, s, doors)
	stopAPI()
	<-apiDown
	if cause := context.Cause(workCtx); ctx.Err() == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	if err == nil || ctx.Err() != nil && errors.Is(err, context.Canceled) {
		u.log.Info("Stopped; guests go on running")
		return apiErr
	}
	return err
}

// work runs all that uses the API.
func (u *upRun) work(ctx context.Context, s *server, doors *doors) error {
	if err := s.waitReady(ctx); err != nil {
		return err
	}
	if err := system.Bootstrap(ctx, s.kube, u.o.services); err != nil {
		return err
	}
	if err := greet.EnsureKey(ctx, s.kube); err != nil {
		return err
	}
	admin, err := newAdminFile(u.o.dataDir, s.url, s.authority)
	if err != nil {
		return err
	}
	u.log.Info("The API is ready", "url", s.url, "kubeconfig", admin.file, "after", time.Since(u.begin).Round(time.Millisecond))
	if err := doors.use(s.kube, s.authority); err != nil {
		return err
	}

	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wg.Go(func() { keepHeapSmall(ctx, s.api.Writes) })
	start := func(name string, f func(context.Context) error) {
		wg.Go(func() {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", name, err))
			}
		})
	}
	start("administrator's kubeconfig", func(ctx context.Context) error { return admin.keep(ctx, clock.RealClock{}, u.log) })
	if u.o.listenAddr.Addr().IsUnspecified() {
		start("addresses of the API's certificate", func(ctx context.Context) error { return followHost(ctx, s.serving, u.log) })
	}
	start("controllers", func(ctx context.Context) error {
		return runControllers(ctx, s.loopback, s.api.Claims(), s.api.Held, s.authority, u.o, u.log)
	})
	if u.o.noAgent {
		start("API server's lease", func(ctx context.Context) error {
			return system.Announce(ctx, s.kube, u.o.nodeName, apiEndpoints(u.o.advertised, s), u.log)
		})
	} else {
		start("agent", func(ctx context.Context) error { return u.runAgent(ctx, s) })
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// apiEndpoints are the addresses that the Service `kubernetes` leads to.
func apiEndpoints(addrs []netip.Addr, s *server) []netip.AddrPort {
	port := netip.MustParseAddrPort(s.api.Address()).Port()
	out := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		out[i] = netip.AddrPortFrom(a, port)
	}
	return out
}

// runAgent is the node side, in the same process as the API server: guests reach
// the API on the node's own address of the pod range.
func (u *upRun) runAgent(ctx context.Context, s *server) error {
	// As a node alone is: what it may is the role's of nodes, and its own objects'.
	config, err := s.api.ConfigAs(rbac.NodeUserPrefix+u.o.nodeName, rbac.NodesGroup)
	if err != nil {
		return err
	}
	n := &nodeRun{o: u.o, config: config, log: u.log, keys: authorityKeys(s.authority, u.o.nodeName)}
	n.onNetwork = func(ctx context.Context, own []netip.Addr) error {
		if err := s.serving.AddAddresses(own...); err != nil {
			return err
		}
		var endpoints []netip.AddrPort
		for _, a := range own {
			at := netip.AddrPortFrom(a, system.APIPort)
			l, err := listenTCP("API for guests", at.String())
			if err != nil {
				return err
			}
			if _, err := s.api.ServeOn(ctx, l); err != nil {
				return err
			}
			endpoints = append(endpoints, at)
		}
		endpoints = append(endpoints, apiEndpoints(u.o.advertised, s)...)
		n.start("API server's lease", func(ctx context.Context) error {
			return system.Announce(ctx, s.kube, u.o.nodeName, endpoints, u.log)
		})
		return nil
	}
	return n.run(ctx)
}
