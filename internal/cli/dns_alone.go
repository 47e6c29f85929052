package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/dns"
	"portico.dev/portico/internal/dns/settings"
)

// onlyDNS is the part that `portico agent --only` can run.
const onlyDNS = "dns"

// dnsOptions are the settings of the DNS server.
type dnsOptions struct {
	listen     string
	resolvConf string
	upstream   string

	// parsed by complete
	listenAt  []netip.AddrPort
	upstreams []netip.AddrPort
}

// flags are those of every agent.
func (d *dnsOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&d.resolvConf, "resolv-conf", "/etc/resolv.conf", "`file` with the servers that are asked for names outside the cluster")
	f.StringVar(&d.upstream, "dns-upstream", "", "`addresses` of servers to ask instead of those in --resolv-conf, with or without a port")
}

func (d *dnsOptions) complete() (err error) {
	if d.upstreams, err = parseServers("--dns-upstream", d.upstream); err != nil {
		return err
	}
	d.listenAt, err = parseServers("--dns-listen", d.listen)
	for _, a := range d.listenAt {
		if a.Addr().IsUnspecified() {
			return fmt.Errorf("--dns-listen %s is every address, and answers could leave from another one than was asked; name the addresses", a)
		}
	}
	return err
}

// parseServers reads addresses with or without a port, which then is DNS's.
func parseServers(flag, value string) (out []netip.AddrPort, err error) {
	for _, s := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' }) {
		at, err := netip.ParseAddrPort(s)
		if err != nil {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("%s: %q is not an IP address; write it like 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353", flag, s)
			}
			at = netip.AddrPortFrom(a, dnsPort)
		}
		out = append(out, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	}
	return out, nil
}

// newNames makes the DNS server of a host with these addresses.
func (o *options) newNames(own []netip.Addr, log *slog.Logger) (*dns.Server, error) {
	workloads := append(append([]netip.Prefix{}, o.cluster...), o.guests...)
	return dns.New(dns.Config{
		Zone: o.clusterDomain, Services: o.services, Workloads: workloads, Pods: records.PodsBySpelling,
		AllowFrom: append(prefixes(own), workloads...), Upstreams: o.dns.upstreams, ResolvConf: o.dns.resolvConf, Logger: log,
	})
}

// followDNSSettings has names follow the ConfigMap that people write.
func (o *options) followDNSSettings(ctx context.Context, kube kubernetes.Interface, names *dns.Server, log *slog.Logger) error {
	zone, err := records.ParseName(o.clusterDomain)
	if err != nil {
		return fmt.Errorf("--cluster-domain: %w", err)
	}
	log = log.With("configmap", settings.Namespace+"/"+settings.Name)
	return settings.Watch(ctx, kube, log, func(data map[string]string) {
		set, problems := settings.Parse(data, zone)
		for _, p := range problems {
			log.Warn("a setting of the DNS server is left out", "error", p)
		}
		if err := names.Configure(set); err != nil {
			log.Warn("the settings of the DNS server are left out", "error", err)
		}
	})
}

// runNamesAlone answers for the cluster's names and does nothing else: it changes
// nothing on the host, so that it needs no data directory and no privilege but that
// of its port. It answers from before it has seen the API until long after.
func runNamesAlone(ctx context.Context, o *options, config *rest.Config, log *slog.Logger) error {
	if len(o.dns.listenAt) == 0 {
		return errors.New("--dns-listen is empty: name the addresses where the DNS server answers")
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the agent's client: %w", err)
	}
	var own []netip.Addr
	for _, a := range o.dns.listenAt {
		own = append(own, a.Addr())
	}
	names, err := o.newNames(own, log)
	if err != nil {
		return err
	}
	udp, tcp, err := dns.Listen(ctx, o.dns.listenAt)
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(namesHeapPercent)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	group.Go(func() {
		ranges := agent.Ranges{Default: o.services, To: names.SetServiceRanges}
		if err := agent.Run(ctx, kube, o.nodeName, log, ranges, names, &afterStart{log: log}); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("watches: %w", err))
		}
	})
	group.Go(func() {
		if err := o.followDNSSettings(ctx, kube, names, log); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("DNS settings: %w", err))
		}
	})
	log.Info("DNS answers; the cluster's names as soon as the API has told them", "addresses", o.dns.listenAt, "domain", o.clusterDomain)
	if err := names.Serve(ctx, udp, tcp); err != nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}
