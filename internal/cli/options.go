package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"portico.dev/portico/internal/core/ipam"
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
	dataplane, vm, nodeName, nodeIP, group string
	kubeconfig                             string // of `portico agent`
	noAgent                                bool

	// parsed by complete
	services, cluster, guests []netip.Prefix
	firstPort, lastPort       uint16
	nodeIPs, advertised       []netip.Addr
	listenAddr                netip.AddrPort
}

// nodeFlags are the settings of the node side.
func (o *options) nodeFlags(f *pflag.FlagSet) {
	f.StringVar(&o.config, "config", "", "configuration `file` in YAML with the names of these flags as keys; flags win")
	f.StringVar(&o.dataDir, "data-dir", defaultDataDir, "`folder` of the store, keys, images and guests")
	f.StringVar(&o.serviceCIDR, "service-cidr", "10.96.0.0/12,fd00:10:96::/112", "`ranges` of cluster IPs, the primary family's first")
	f.StringVar(&o.clusterCIDR, "cluster-cidr", "10.244.0.0/16,fd00:10:244::/56", "`ranges` from which each node gets a part for its pods")
	f.StringVar(&o.guestCIDR, "guest-cidr", "10.245.0.0/16,fd00:10:245::/64", "`ranges` of virtual machines")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "DNS `domain` of Services")
	f.StringVar(&o.dataplane, "dataplane", "auto", "how packets are handled: auto, nftables or none")
	f.StringVar(&o.vm, "vm", "auto", "how guests run: auto, kvm, tcg (software emulation) or off")
	f.StringVar(&o.nodeName, "node-name", "", "`name` of this node (default: the host's name)")
	f.StringVar(&o.nodeIP, "node-ip", "", "`addresses` of this node, one per family (default: those of the default route)")
	f.StringVar(&o.group, "cgroup", "", "cgroup v2 `folder` whose processes are this node's (default: all)")
}

// serverFlags are the settings of the API server.
func (o *options) serverFlags(f *pflag.FlagSet) {
	f.StringVar(&o.listen, "listen", "127.0.0.1:6443", "`address` where people reach the API")
	f.StringVar(&o.advertise, "advertise-address", "", "further `addresses` of this host where the API listens, for other hosts")
	f.StringVar(&o.nodePortRange, "node-port-range", "30000-32767", "`range` of node ports")
	f.BoolVar(&o.noAgent, "no-agent", false, "run the API and the controllers only; needs no privilege")
}

// readConfig fills flags that were not given from the configuration file.
func (o *options) readConfig(cmd *cobra.Command) error {
	if o.config == "" {
		return nil
	}
	raw, err := os.ReadFile(o.config)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	settings := map[string]any{}
	if err := yaml.UnmarshalStrict(raw, &settings); err != nil {
		return fmt.Errorf("--config %s is not a YAML map of settings: %w", o.config, err)
	}
	for key, value := range settings {
		flag := cmd.Flags().Lookup(key)
		if flag == nil || key == "config" {
			return fmt.Errorf("--config %s: there is no setting %q; it has: %s", o.config, key, strings.Join(settingNames(cmd), ", "))
		}
		if flag.Changed {
			continue
		}
		if err := flag.Value.Set(text(value)); err != nil {
			return fmt.Errorf("--config %s: %s: %w", o.config, key, err)
		}
	}
	return nil
}

// text writes a value of the file as it would be written on the command line.
func text(value any) string {
	if list, ok := value.([]any); ok {
		parts := make([]string, len(list))
		for i, v := range list {
			parts[i] = text(v)
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(value)
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
		return fmt.Errorf("--cluster-domain %q is not a DNS name: %s", o.clusterDomain, errs[0])
	}
	for _, choice := range []struct {
		flag, value string
		of          []string
	}{{"--dataplane", o.dataplane, []string{"auto", "nftables", "none"}}, {"--vm", o.vm, []string{"auto", "kvm", "tcg", "off"}}} {
		if !slices.Contains(choice.of, choice.value) {
			return fmt.Errorf("%s %q is unknown; choose one of %s", choice.flag, choice.value, strings.Join(choice.of, ", "))
		}
	}
	if o.nodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find the host's name: %w; give one with --node-name", err)
		}
		o.nodeName = strings.ToLower(host)
	}
	if errs := validation.IsDNS1123Subdomain(o.nodeName); len(errs) > 0 {
		return fmt.Errorf("--node-name %q can't name a node: %s", o.nodeName, errs[0])
	}
	if o.nodeIPs, err = parseAddresses("--node-ip", o.nodeIP); err != nil {
		return err
	}
	return o.checkGroup()
}

func (o *options) checkGroup() error {
	if o.group == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(o.group, "cgroup.procs")); err != nil {
		return fmt.Errorf("--cgroup %s is not a folder of cgroup v2 (%w); see `mount -t cgroup2`", o.group, err)
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
	return nil
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
