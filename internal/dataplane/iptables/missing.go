package iptables

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"
)

// Missing says what this host lacks for iptables; nil: nothing. The rules are tried in a
// network namespace of their own, so nothing of the host's changes.
func Missing() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	p, err := choose(ctx, here)
	if err != nil {
		return err
	}
	p.attr = func() *syscall.SysProcAttr { return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} }
	for _, v6 := range []bool{false, true} {
		if err := p.lacks(ctx, v6); err != nil {
			return err
		}
	}
	return nil
}

func here(f func() error) error { return f() }

// trial is a rule that needs something.
type trial struct {
	needs string
	table table
	rule  string // %u is the word for an unreachable port
}

// trials are rules that need each one thing of the kernel.
var trials = []trial{
	{"the table nat (CONFIG_IP_NF_NAT or CONFIG_NF_TABLES)", nat, "-j RETURN"},
	{"the table filter (CONFIG_IP_NF_FILTER or CONFIG_NF_TABLES)", filter, "-j RETURN"},
	{"xt_comment", nat, "-m comment --comment portico"},
	{"xt_conntrack", filter, "-m conntrack --ctstate NEW"},
	{"xt_addrtype", filter, "-m addrtype --src-type LOCAL"},
	{"xt_statistic", nat, "-m statistic --mode random --probability 0.5"},
	{"xt_recent", nat, "-m recent --set --name portico"},
	{"xt_mark", nat, "-m mark --mark 0x1/0x1 -j MARK --set-xmark 0x0/0x1"},
	{"xt_bpf", nat, "-m bpf --bytecode \"1,6 0 0 0\""},
	{"xt_nat and MASQUERADE", nat, "-j MASQUERADE --random-fully"},
	{"REJECT", filter, "-j REJECT --reject-with %u-port-unreachable"},
}

// lacks tries all at once, and if that fails each alone, to name it.
func (p *programs) lacks(ctx context.Context, v6 bool) error {
	try := func(only string) error {
		var b batch
		for i := range b {
			fmt.Fprintf(&b[i].chains, ":%s - [0:0]\n", masqChain)
		}
		fmt.Fprintf(&b[nat].chains, ":POSTROUTING ACCEPT [0:0]\n")
		fmt.Fprintf(&b[nat].rules, "-A POSTROUTING -j %s\n", masqChain) // MASQUERADE is for this hook alone
		for _, t := range trials {
			if only == "" || only == t.needs {
				unreachable := "icmp"
				if v6 {
					unreachable = "icmp6"
				}
				fmt.Fprintf(&b[t.table].rules, "-A %s %s\n", masqChain, strings.ReplaceAll(t.rule, "%u", unreachable))
			}
		}
		return p.restore(ctx, v6, b.text())
	}
	all := try("")
	if all == nil || errors.Is(all, errLocked) {
		return all
	}
	if errors.Is(all, syscall.EPERM) {
		return fmt.Errorf("this process may not change rules, which needs CAP_NET_ADMIN and CAP_SYS_ADMIN: %w", all)
	}
	family := "IPv4"
	if v6 {
		family = "IPv6"
	}
	for _, t := range trials {
		if err := try(t.needs); err != nil {
			return fmt.Errorf("the kernel's %s for iptables (%s) has no %s: %w", family, p.variant, t.needs, err)
		}
	}
	return fmt.Errorf("the kernel's %s for iptables (%s) doesn't take our rules: %w", family, p.variant, all)
}
