package iptables

import (
	"fmt"
	"os"
	"strings"
)

// Node ports at 127.0.0.1. The kernel drops what comes from or goes to a loopback address by
// another link, unless route_localnet says otherwise, and a packet that was translated does
// that. One link isn't enough: it must be on for each by which backends are reached, whose
// answers come there. Then hosts around this one could reach what listens on loopback alone
// (CVE-2020-8558), so that a chain of ours drops them. The chain is there when it was us who
// turned it on: where it was on before, that is for its owner to answer.
const localnet = "/proc/sys/net/ipv4/conf/all/route_localnet"

// loopback is what such node ports are reached at.
const loopback = "127.0.0.0/8"

// guardsLoopback tells whether route_localnet is for us to turn on, or was turned on by us.
func (b *Backend) guardsLoopback(r *reading) (bool, error) {
	if !b.cfg.LocalNodePorts || r.guardsLoopback() {
		return b.cfg.LocalNodePorts, nil
	}
	on, err := b.programs.localnet()
	return !on, err
}

// guardsLoopback tells whether the chain is there.
func (r *reading) guardsLoopback() bool {
	_, there := r.held[chain{filter, localChain}]
	return there
}

// localnet reads the kernel's setting.
func (p *programs) localnet() (on bool, err error) {
	var raw []byte
	err = p.enter(func() (err error) {
		raw, err = os.ReadFile(localnet)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("node ports at 127.0.0.1: %w", err)
	}
	return strings.TrimSpace(string(raw)) != "0", nil
}

func (p *programs) setLocalnet(on bool) error {
	value := "0\n"
	if on {
		value = "1\n"
	}
	if err := p.enter(func() error { return os.WriteFile(localnet, []byte(value), 0o644) }); err != nil {
		return fmt.Errorf("node ports at 127.0.0.1: %w", err)
	}
	return nil
}

// localNAT adds what node ports at loopback need: this node's own packets alone meet them,
// which go out by lo until they are translated.
func (f *family) localNAT(chains map[string][]string) {
	if !f.local {
		return
	}
	chains[natOutChain] = append(chains[natOutChain], "-d "+loopback+" -o lo -j "+nodeTree)
	chains[postChain] = append([]string{"-s " + loopback + " ! -o lo -m conntrack --ctstate DNAT -j MASQUERADE --random-fully"}, chains[postChain]...)
}

// localFilter adds the guard.
func (f *family) localFilter(chains map[string][]string) {
	if !f.shielded {
		return
	}
	chains[localChain] = []string{"-d " + loopback + " ! -i lo -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"}
	chains[inChain] = append([]string{"-j " + localChain}, chains[inChain]...)
}
