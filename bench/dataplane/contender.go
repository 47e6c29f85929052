package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"portico.dev/portico/bench/apiclient"
)

// Modes of the peer.
const (
	modeNftables = "nftables"
	modeIptables = "iptables"
)

// contender is a program that turns Services into rules.
type contender struct {
	name   string
	peer   bool
	prefix string // begins its figures' names, but for:
	rules  string // those of connections
	most   int    // Services that it is given
	only   int    // not 0: the one number of Services at which it is measured
	// prepare makes what must be in the API before a start.
	prepare func(*apiclient.Client, *site) error
	argv    func(*world, *site) []string
}

// contenders are ours and the peer in each of its modes.
func (p *plan) contenders() []contender {
	out := []contender{{
		name: "portico", rules: "nft_", most: maxServices,
		prepare: func(*apiclient.Client, *site) error { return nil }, // it makes its Node itself
		argv: func(w *world, s *site) []string {
			return []string{
				w.portico, "agent", "--kubeconfig", w.config, "--data-dir", filepath.Join(w.dir, fmt.Sprintf("agent-%d", s.number)), "--vm", "off",
				"--dataplane", "nftables", "--node-name", s.name, "--node-ip", s.address.String(), "--cluster-cidr", clusterRange.String(),
			}
		},
	}}
	if p.kubeproxy == "" {
		return out
	}
	for _, mode := range p.modes {
		c := contender{name: "kubeproxy-" + mode, peer: true, prefix: "kubeproxy_", rules: "kubeproxy_nft_", most: p.peerMost, prepare: prepareNode}
		if mode == modeIptables {
			c.prefix, c.rules, c.only = "kubeproxy_iptables_", "kubeproxy_iptables_", p.iptablesAt
		}
		c.argv = func(w *world, s *site) []string {
			return []string{
				"env", "PATH=" + w.legacyTools() + ":" + os.Getenv("PATH"), "XTABLES_LOCKFILE=" + filepath.Join(w.dir, "xtables.lock"),
				p.kubeproxy, "--kubeconfig=" + w.config, "--proxy-mode=" + mode, "--hostname-override=" + s.name, "--cluster-cidr=" + clusterRange.String(),
				// The host's limits of connection tracking are for the host to set.
				"--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
			}
		}
		out = append(out, c)
	}
	return out
}

// prepareNode makes the site's Node, which a kubelet would do.
func prepareNode(c *apiclient.Client, s *site) error { return makeNode(c, s.name, s.address) }

// legacyTools is a folder in which `iptables` is iptables-legacy, whose rules are the
// kernel's own iptables. Where it isn't installed, kube-proxy says so.
func (w *world) legacyTools() string { return filepath.Join(w.dir, "legacy") }

func (w *world) linkLegacyTools() error {
	if err := os.Mkdir(w.legacyTools(), 0o755); err != nil {
		return err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, tool := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(family + "-legacy" + tool)
			if err != nil {
				return fmt.Errorf("find the tools of iptables-legacy: %w; install Debian's package iptables, or leave that mode out by -modes nftables", err)
			}
			if err := os.Symlink(path, filepath.Join(w.legacyTools(), family+tool)); err != nil {
				return err
			}
		}
	}
	return nil
}
