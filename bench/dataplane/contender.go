package main

import (
	"fmt"
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
	suffix string // ends those of starts
	rules  string // begins those of connections
	agent  string // begins those of the program itself
	most   int    // Services that it is given
	only   int    // not 0: the one number of Services at which it is measured
	traced bool   // it writes to the kernel itself, which can be traced
	pace   pace
	// prepare makes what must be in the API before a start.
	prepare func(*apiclient.Client, *site) error
	argv    func(*world, *site) []string
}

// contenders are those of the part that is measured.
func (p *plan) contenders() []contender {
	if p.iptables {
		return p.iptablesContenders()
	}
	own := p.ours("portico", modeNftables, nil)
	own.suffix, own.rules, own.agent, own.traced = "_nft", "nft_", "agent_", true
	out := []contender{own}
	for _, mode := range p.modes {
		c := p.peer("kubeproxy-"+mode, mode, nil)
		c.prefix, c.rules, c.agent = "kubeproxy_", "kubeproxy_nft_", "kubeproxy_"
		if mode == modeIptables {
			c = p.peer("kubeproxy-"+mode, mode, toolsOf(legacy))
			c.prefix, c.rules, c.only = "kubeproxy_iptables_legacy_", "kubeproxy_iptables_legacy_", p.iptablesAt
			c.agent = c.prefix
		}
		if p.kubeproxy != "" {
			out = append(out, c)
		}
	}
	return out
}

// environment gives what goes before a contender's own words.
type environment func(*world) []string

// ours is our agent in one mode.
func (p *plan) ours(name, mode string, in environment) contender {
	return contender{
		name: name, most: maxServices, pace: native,
		prepare: func(*apiclient.Client, *site) error { return nil }, // it makes its Node itself
		argv: func(w *world, s *site) []string {
			return in.before(
				w, w.portico, "agent", "--kubeconfig", w.config, "--data-dir", filepath.Join(w.dir, fmt.Sprintf("agent-%d", s.number)), "--vm", "off",
				"--dataplane", mode, "--node-name", s.name, "--node-ip", s.address.String(), "--cluster-cidr", clusterRange.String(),
			)
		},
	}
}

// peer is kube-proxy in one mode.
func (p *plan) peer(name, mode string, in environment) contender {
	return contender{
		name: name, peer: true, most: p.peerMost, pace: native, prepare: prepareNode,
		argv: func(w *world, s *site) []string {
			return in.before(
				w, p.kubeproxy, "--kubeconfig="+w.config, "--proxy-mode="+mode, "--hostname-override="+s.name, "--cluster-cidr="+clusterRange.String(),
				// The host's limits of connection tracking are for the host to set.
				"--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
			)
		},
	}
}

func (in environment) before(w *world, words ...string) []string {
	if in == nil {
		return words
	}
	return append(in(w), words...)
}

// prepareNode makes the site's Node, which a kubelet would do.
func prepareNode(c *apiclient.Client, s *site) error { return makeNode(c, s.name, s.address) }
