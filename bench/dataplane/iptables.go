package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Variants of iptables: legacy's rules are the kernel's own iptables, the other's are
// nf_tables'.
const (
	legacy = "legacy"
	onNft  = "nft"
)

var variants = []string{legacy, onNft}

// onNftMost is how many Services the peer is given on nf_tables: a start with 1,000 takes it
// 6 s, and ten times as many a hundred times that, for it names its chains to
// iptables-nft-restore in an order that has each line search them all.
const onNftMost = 1000

// iptablesContenders are ours and the peer in the iptables mode, on each variant.
func (p *plan) iptablesContenders() (out []contender) {
	for _, variant := range variants {
		own := p.ours("portico-iptables-"+variant, modeIptables, toolsOf(variant))
		own.prefix = "iptables_" + variant + "_"
		all := []contender{own}
		if p.kubeproxy != "" {
			peer := p.peer("kubeproxy-iptables-"+variant, modeIptables, toolsOf(variant))
			peer.prefix = "kubeproxy_" + own.prefix
			if variant == onNft {
				peer.most = min(peer.most, onNftMost)
			}
			all = append(all, peer)
		}
		for _, c := range all {
			c.rules, c.agent = c.prefix, c.prefix
			out = append(out, c)
		}
	}
	return out
}

// inIptables measures starts, and at the last size also changes and memory, of all that use
// iptables, by turns.
func (p *plan) inIptables(ctx context.Context, w *world, size int, into *results) error {
	alike := *p
	alike.iptables, alike.only = true, []string{partProgram, partLatency, partMemory}
	if err := alike.program(ctx, w, size, into); err != nil {
		return err
	}
	if size == p.latencySizes[len(p.latencySizes)-1] {
		if err := alike.agents(ctx, w, size, into); err != nil {
			return err
		}
	}
	for _, c := range alike.contenders() {
		if w.sites[c.name] != nil {
			w.forget(c.name) // their rules are of use to no other part
		}
	}
	return nil
}

// toolsOf gives the environment in which `iptables` is that of a variant.
func toolsOf(variant string) environment {
	return func(w *world) []string {
		return []string{"env", "PATH=" + w.tools(variant) + ":" + os.Getenv("PATH"), "XTABLES_LOCKFILE=" + filepath.Join(w.dir, "xtables.lock")}
	}
}

// tools is a folder in which `iptables` is that of a variant.
func (w *world) tools(variant string) string { return filepath.Join(w.dir, "iptables-"+variant) }

// linkTools makes those folders.
func (w *world) linkTools() error {
	for _, variant := range variants {
		if err := os.Mkdir(w.tools(variant), 0o755); err != nil {
			return err
		}
		for _, family := range []string{"iptables", "ip6tables"} {
			for _, tool := range []string{"", "-save", "-restore"} {
				path, err := exec.LookPath(family + "-" + variant + tool)
				if err != nil {
					return fmt.Errorf("find the tools of iptables-%s: %w; install Debian's package iptables, or leave that mode out by -modes nftables", variant, err)
				}
				if err := os.Symlink(path, filepath.Join(w.tools(variant), family+tool)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
