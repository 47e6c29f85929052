package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/records"
	"portico.dev/portico/internal/dns"
	"portico.dev/portico/internal/dns/pods"
	"portico.dev/portico/internal/dns/settings"
)

// onlyDNS is the part that `portico agent --only` can run.
const onlyDNS = "dns"

// dnsOptions are the settings of the DNS server.
type dnsOptions struct {
	listen     string
	resolvConf string
	upstream   string
	podNames   string
	search     bool
	tls        bool
	cert, key  string
	onHost     bool

	// parsed by complete
	listenAt  []netip.AddrPort
	upstreams []netip.AddrPort
	pods      records.PodMode
}

// podModes are the values of --dns-pod-names.
var podModes = map[string]records.PodMode{"any": records.PodsBySpelling, "existing": records.PodsExisting, "off": records.PodsOff}

// flags are those of every agent.
func (d *dnsOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&d.resolvConf, "resolv-conf", "/etc/resolv.conf", "`file` with the servers that are asked for names outside the cluster")
	f.StringVar(&d.upstream, "dns-upstream", "", "`addresses` of servers to ask instead of those in --resolv-conf, with or without a port")
	f.StringVar(&d.podNames, "dns-pod-names", "any", "which names like 1-2-3-4.default.pod.cluster.local are answered: any, existing (where a pod has the address) or off")
	f.BoolVar(&d.search, "dns-search", false, "look for short names in the namespace of the guest or pod that asks, so that they need no search path")
	f.BoolVar(&d.tls, "dns-tls", false, "answer by DNS over TLS as well, at port 853 of the same addresses, with this node's certificate")
	f.StringVar(&d.cert, "dns-tls-cert", "", "`file` with a certificate for --dns-tls instead of the node's, read anew when it changes")
	f.StringVar(&d.key, "dns-tls-key", "", "`file` with the key of --dns-tls-cert")
	f.BoolVar(&d.onHost, "dns-on-host", true, "have this host's systemd-resolved, where it runs, ask here for the cluster's names")
}

func (d *dnsOptions) complete() (err error) {
	if d.upstreams, err = parseServers("--dns-upstream", d.upstream); err != nil {
		return err
	}
	mode, ok := podModes[d.podNames]
	if !ok {
		return fmt.Errorf("--dns-pod-names %q is unknown; choose one of any, existing, off", d.podNames)
	}
	d.pods = mode
	if (d.cert == "") != (d.key == "") {
		return errors.New("--dns-tls-cert and --dns-tls-key belong together; give both files or none")
	}
	d.tls = d.tls || d.cert != ""
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
		Zone: o.clusterDomain, Services: o.services, Workloads: workloads, Pods: o.dns.pods, Search: o.dns.search,
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
	settings.Watch(ctx, kube, log, func(data map[string]string) {
		set, problems := settings.Parse(data, zone)
		for _, p := range problems {
			log.Warn("a setting of the DNS server is left out", "error", p)
		}
		if err := names.Configure(set); err != nil {
			log.Warn("the settings of the DNS server are left out", "error", err)
		}
	})
	return nil
}

// followPods has names know the pods that matter to it: those of machines, or all where
// other pods' names or addresses count.
func (o *options) followPods(ctx context.Context, kube kubernetes.Interface, names *dns.Server, log *slog.Logger) error {
	which := pods.Machines
	if o.dns.search || o.dns.pods == records.PodsExisting {
		which = pods.All
	}
	return pods.Watch(ctx, kube, which, log, names)
}

// listenNames opens the DNS server's sockets. nodeCertificate gives the node's for an
// address; nil where there is none.
func (o *options) listenNames(ctx context.Context, at []netip.AddrPort, nodeCertificate func(netip.Addr) (getCertificate, error), log *slog.Logger) (udp []net.PacketConn, tcp []net.Listener, err error) {
	certificate := nodeCertificate
	if o.dns.cert != "" {
		files, err := dns.OpenKeyPair(o.dns.cert, o.dns.key, time.Now, log)
		if err != nil {
			return nil, nil, fmt.Errorf("--dns-tls-cert and --dns-tls-key: %w", err)
		}
		certificate = func(netip.Addr) (getCertificate, error) { return files.GetCertificate, nil }
	}
	if o.dns.tls && certificate == nil {
		return nil, nil, errors.New("--dns-tls: this process has no certificate; name one with --dns-tls-cert and --dns-tls-key")
	}
	if udp, tcp, err = dns.Listen(ctx, at); err != nil || !o.dns.tls {
		return udp, tcp, err
	}
	for _, a := range at {
		get, err := certificate(a.Addr())
		if err == nil {
			var l net.Listener
			if l, err = dns.ListenTLS(ctx, netip.AddrPortFrom(a.Addr(), dns.TLSPort), get); err == nil {
				tcp = append(tcp, l)
				continue
			}
		}
		dns.Close(udp, tcp)
		return nil, nil, fmt.Errorf("--dns-tls: %w", err)
	}
	return udp, tcp, nil
}

// runNamesAlone answers for the cluster's names and does nothing else: it changes
// nothing on the host, so that it needs no data directory and no privilege but that
// of its port. It answers from before it has seen the API until long after.
func runNamesAlone(ctx context.Context, o *options, config *rest.Config, log *slog.Logger) error {
	if len(o.dns.listenAt) == 0 {
		return errors.New("--dns-listen is empty: name the addresses where the DNS server answers")
	}
	memory := newNamesMemory(log)
	kube, err := kubernetes.NewForConfig(inProtobuf(config))
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
	memory.queries = names.Queries
	udp, tcp, err := o.listenNames(ctx, o.dns.listenAt, nil, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel(nil)
	group.Go(func() {
		ranges := agent.Ranges{Default: o.services, To: names.SetServiceRanges}
		if err := agent.Run(ctx, kube, o.nodeName, log, ranges, names, memory); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("watches: %w", err))
		}
	})
	group.Go(func() { memory.run(ctx) })
	group.Go(func() {
		if err := o.followDNSSettings(ctx, kube, names, log); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("DNS settings: %w", err))
		}
	})
	if err := o.startNamesMetrics(ctx, &group, names, log); err != nil {
		log.Warn("No metrics are served; --metrics-address names another address, or none", "error", err)
	}
	group.Go(func() {
		if err := o.followPods(ctx, kube, names, log); err != nil && ctx.Err() == nil {
			cancel(fmt.Errorf("watch of pods: %w", err))
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

// startNamesMetrics serves the metrics of a DNS server alone. On a node beside others,
// whose port it is, it goes without.
func (o *options) startNamesMetrics(ctx context.Context, group *sync.WaitGroup, names *dns.Server, log *slog.Logger) error {
	l, err := o.listenMetrics()
	if l == nil {
		return err
	}
	registry := newRegistry()
	registry.MustRegister(names.Collector())
	group.Go(func() {
		if err := serveMetrics(ctx, l, registry, log); err != nil {
			log.Warn("The metrics' server ended", "error", err)
		}
	})
	return nil
}
