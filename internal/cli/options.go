package cli

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/dataplane/iptables"
	"portico.dev/portico/internal/routes"
)

// defaultDataDir holds everything that outlives a process of Portico.
const defaultDataDir = "/var/lib/portico"

// options are the settings of `portico up` and `portico agent`. The flags and the
// keys of the configuration file have the same names.
type options struct {
	config string

	dataDir, listen, advertise             string
	serviceCIDR, clusterCIDR, guestCIDR    string
	nodePortRange, clusterDomain           string
	nodePorts                              string
	dataplane, vm, nodeName, nodeIP, group string
	kubeconfig, only                       string // of `portico agent`
	auditLog, metrics, announce            string
	limits                                 apiserver.Limits
	noAgent                                bool
	profiling                              bool
	etcd                                   etcdOptions
	dns                                    dnsOptions
	nodeRoutes                             nodeRoutes
	ipvs                                   ipvsOptions
	masqueradeBit                          int
	localNodePorts                         bool

	// parsed by complete
	services, cluster, guests []netip.Prefix
	firstPort, lastPort       uint16
	nodePortRanges            []netip.Prefix // nil: the primary addresses
	nodeIPs, advertised       []netip.Addr
	listenAddr                netip.AddrPort

	chooser string     // what chose the data plane: the flag's name or the variable's
	picked  *technique // by technique; nil: not yet

	lacks error // found by checkHost: why nothing of this host may be changed; nil: it may
}

// nodeFlags are the settings of the node side.
func (o *options) nodeFlags(f *pflag.FlagSet) {
	f.StringVar(&o.config, "config", "", "configuration `file` in YAML with the names of these flags as keys; flags win")
	f.StringVar(&o.dataDir, "data-dir", defaultDataDir, "`folder` of the store, keys, images and guests")
	f.StringVar(&o.serviceCIDR, "service-cidr", "10.96.0.0/12,fd00:10:96::/112", "`ranges` of cluster IPs, the primary family's first")
	f.StringVar(&o.clusterCIDR, "cluster-cidr", "10.244.0.0/16,fd00:10:244::/56", "`ranges` from which each node gets a part for its pods")
	f.StringVar(&o.guestCIDR, "guest-cidr", "10.245.0.0/16,fd00:10:245::/64", "`ranges` of virtual machines")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "DNS `domain` of Services")
	f.StringVar(&o.dataplane, "dataplane", "", "how packets are handled: "+strings.Join(dataplaneChoices(), ", ")+" (default: $"+modeVariable+", or auto)")
	f.IntVar(&o.masqueradeBit, "masquerade-bit", iptables.DefaultMasqueradeBit, "`bit` of a packet's mark that the iptables and ipvs data planes use, 0 to 31")
	f.BoolVar(&o.localNodePorts, "iptables-localhost-nodeports", false, "the iptables data plane serves node ports at 127.0.0.1 too, for which it sets net.ipv4.conf.all.route_localnet")
	f.StringVar(&o.vm, "vm", "auto", "how guests run: auto, kvm, tcg (software emulation) or off")
	f.StringVar(&o.nodeName, "node-name", "", "`name` of this node (default: the host's name)")
	f.StringVar(&o.nodeIP, "node-ip", "", "`addresses` of this node, one per family (default: those of the default route)")
	f.StringVar(&o.nodePorts, "nodeport-addresses", routes.PrimaryOnly, "where node ports answer: at the primary addresses (--node-ip), or at this host's addresses in these `ranges`, such as 192.0.2.0/24,2001:db8::/64")
	f.StringVar(&o.group, "cgroup", "", "cgroup v2 `folder` whose processes are this node's (default: all)")
	o.ipvs.flags(f)
	o.nodeRoutes.flags(f)
	o.dns.flags(f)
	o.metricsFlags(f)
	o.announceFlags(f)
}

// serverFlags are the settings of the API server.
func (o *options) serverFlags(f *pflag.FlagSet) {
	f.StringVar(&o.listen, "listen", "127.0.0.1:6443", "`address` where people reach the API")
	f.StringVar(&o.advertise, "advertise-address", "", "further `addresses` of this host where the API listens, for other hosts")
	f.StringVar(&o.nodePortRange, "node-port-range", "30000-32767", "`range` of node ports")
	f.IntVar(&o.limits.ReadOnly, "max-requests-inflight", apiserver.DefaultReadOnly, "`number` of reading requests at once; one more is answered 429")
	f.IntVar(&o.limits.Mutating, "max-mutating-requests-inflight", apiserver.DefaultMutating, "`number` of writing requests at once; one more is answered 429")
	f.DurationVar(&o.limits.Request, "request-timeout", apiserver.DefaultRequest, "`time` that a request may take, watches and consoles apart")
	f.StringVar(&o.auditLog, "audit-log", "", "`file` that notes who wrote what, as JSON; rotated at 100 MB (default: none)")
	o.etcd.flags(f)
	f.BoolVar(&o.noAgent, "no-agent", false, "run the API and the controllers only; needs no privilege")
	f.BoolVar(&o.profiling, "profiling", false, "serve Go's profiles at /debug/pprof/, to administrators on this host")
}

// readConfig fills flags that were not given from the configuration file.
func (o *options) readConfig(cmd *cobra.Command) error {
	if o.config == "" {
		return nil
	}
	raw, err := os.ReadFile(o.config)
	if err != nil {
		return fmt.Errorf("--config %s can't be read: %w; give the path of a file with settings", o.config, cause(err))
	}
	settings, err := parseSettings(raw)
	if err != nil {
		return fmt.Errorf("--config %s: %w; write settings like \"listen: 127.0.0.1:6443\", one a line", o.config, err)
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) { // the same error each time
		flag := cmd.Flags().Lookup(key)
		if flag == nil || key == "config" {
			return fmt.Errorf("--config %s: there is no setting %q; it has: %s", o.config, key, strings.Join(settingNames(cmd), ", "))
		}
		if flag.Changed {
			continue
		}
		s, ok := text(settings[key])
		if !ok || flag.Value.Set(s) != nil {
			return fmt.Errorf("--config %s: the setting %q can't be %s; it wants %s", o.config, key, describe(settings[key]), wanted(flag))
		}
	}
	return nil
}

func parseSettings(raw []byte) (map[string]any, error) {
	var document any
	if err := yaml.UnmarshalStrict(raw, &document); err != nil {
		// What the library says, without the names of its own steps.
		words := sentence(err)
		for _, step := range []string{"error converting YAML to JSON: ", "yaml: ", "unmarshal errors:; "} {
			words = strings.TrimPrefix(words, step)
		}
		return nil, fmt.Errorf("it is not YAML: %s", words)
	}
	settings, ok := document.(map[string]any)
	if !ok && document != nil {
		return nil, fmt.Errorf("it is %s, not a map of settings", describe(document))
	}
	return settings, nil
}

// text writes a value of the file as it would be written on the command line.
func text(value any) (_ string, ok bool) {
	switch v := value.(type) {
	case string, bool, int64:
		return fmt.Sprint(v), true
	case float64: // YAML becomes JSON on its way, and JSON's numbers are these
		return strconv.FormatFloat(v, 'f', -1, 64), true
	case []any:
		parts := make([]string, len(v))
		for i, item := range v {
			if _, nested := item.([]any); nested {
				return "", false
			}
			if parts[i], ok = text(item); !ok {
				return "", false
			}
		}
		return strings.Join(parts, ","), len(v) > 0
	}
	return "", false
}

// describe names a value of the file in an error.
func describe(value any) string {
	switch v := value.(type) {
	case nil:
		return "empty"
	case map[string]any:
		return "a map"
	case []any:
		return "a list"
	case string:
		return strconv.Quote(v)
	default:
		return fmt.Sprint(v)
	}
}

// wanted says what a setting takes.
func wanted(flag *pflag.Flag) string {
	switch flag.Value.Type() {
	case "bool":
		return "true or false"
	case "duration":
		return "a time such as 30s or 2m"
	}
	name, _ := pflag.UnquoteUsage(flag)
	return "text: " + name
}

func settingNames(cmd *cobra.Command) []string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "config" && f.Name != "help" {
			names = append(names, f.Name)
		}
	})
	return names
}

// complete parses and checks what needs no look at the host.
func (o *options) complete() (err error) {
	if o.dataDir, err = filepath.Abs(o.dataDir); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if o.services, err = routes.ParseRanges("--service-cidr", o.serviceCIDR); err != nil {
		return err
	}
	if o.cluster, err = routes.ParseRanges("--cluster-cidr", o.clusterCIDR); err != nil {
		return err
	}
	if o.guests, err = routes.ParseRanges("--guest-cidr", o.guestCIDR); err != nil {
		return err
	}
	if err := routes.CheckRanges(o.routesConfig()); err != nil {
		return err
	}
	if errs := validation.IsDNS1123Subdomain(o.clusterDomain); len(errs) > 0 {
		return fmt.Errorf("--cluster-domain %q is not a DNS name: %s", o.clusterDomain, brief(errs[0]))
	}
	if err := o.completeDataplane(); err != nil {
		return err
	}
	if err := o.ipvs.complete(); err != nil {
		return err
	}
	for _, choice := range []struct {
		flag, value string
		of          []string
	}{{"--vm", o.vm, []string{"auto", "kvm", "tcg", "off"}}, {"--announce", o.announce, []string{"auto", "none"}}, {"--node-routes", o.nodeRoutes.mode, []string{string(mesh.Auto), string(mesh.AlwaysVXLAN), noNodeRoutes}}} {
		if !slices.Contains(choice.of, choice.value) {
			return fmt.Errorf("%s %q is unknown; choose one of %s", choice.flag, choice.value, strings.Join(choice.of, ", "))
		}
	}
	if o.nodeRoutes.port == 0 {
		return fmt.Errorf("--vxlan-port 0 is no port; give one from 1 to 65535, the same on all nodes")
	}
	if o.nodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host's name: %w; give one with --node-name", err)
		}
		o.nodeName = strings.ToLower(host)
	}
	if errs := validation.IsDNS1123Subdomain(o.nodeName); len(errs) > 0 {
		return fmt.Errorf("--node-name %q can't name a node: %s", o.nodeName, brief(errs[0]))
	}
	if o.nodeIPs, err = parseAddresses("--node-ip", o.nodeIP); err != nil {
		return err
	}
	if o.nodePortRanges, err = routes.ParseNodePorts(o.nodePorts); err != nil {
		return err
	}
	if err := o.dns.complete(); err != nil {
		return err
	}
	return o.checkGroup()
}

// brief leaves out the regular expression behind an upstream message.
func brief(message string) string {
	message, _, _ = strings.Cut(message, " (e.g. ")
	return message
}

func (o *options) checkGroup() error {
	if o.group == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(o.group, "cgroup.procs")); err != nil {
		return fmt.Errorf("--cgroup %s is not a folder of cgroup v2 (it has no cgroup.procs); `mount -t cgroup2` shows where those are", o.group)
	}
	return nil
}

// completeServer parses and checks the settings of the API server.
func (o *options) completeServer() (err error) {
	if o.listenAddr, err = netip.ParseAddrPort(o.listen); err != nil {
		return fmt.Errorf("--listen %q is not an address with a port; write it like 127.0.0.1:6443 or [::1]:6443", o.listen)
	}
	if o.advertised, err = parseAddresses("--advertise-address", o.advertise); err != nil {
		return err
	}
	for _, a := range o.advertised {
		if a.IsLoopback() {
			return fmt.Errorf("--advertise-address %s is loopback; give an address of this host that others reach", a)
		}
	}
	o.firstPort, o.lastPort, err = ipam.ParsePortRange(o.nodePortRange)
	if err != nil {
		return fmt.Errorf("--node-port-range: %w", err)
	}
	for flag, n := range map[string]int{"--max-requests-inflight": o.limits.ReadOnly, "--max-mutating-requests-inflight": o.limits.Mutating} {
		if n < 1 {
			return fmt.Errorf("%s %d lets no request in; give 1 or more", flag, n)
		}
	}
	if o.limits.Request < time.Second {
		return fmt.Errorf("--request-timeout %s ends every request; give 1s or more", o.limits.Request)
	}
	return o.etcd.complete()
}

func parseAddresses(flag, value string) ([]netip.Addr, error) {
	var out []netip.Addr
	if value == "" {
		return nil, nil
	}
	for _, s := range strings.Split(value, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("%s: %q is not an IP address", flag, s)
		}
		out = append(out, a.Unmap())
	}
	return out, nil
}

func (o *options) routesConfig() routes.Config {
	return routes.Config{Services: o.services, Cluster: o.cluster, Guests: o.guests, StateDir: filepath.Join(o.dataDir, "node")}
}
