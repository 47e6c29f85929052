package routes

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// checkFirewall finds filters of others that drop what is forwarded: packets of
// and to guests are forwarded, and another table's drop can't be overruled. It
// reads nf_tables, which holds the rules of nft, firewalld and today's iptables;
// what only iptables-legacy shows is not seen.
func checkFirewall(c Config) ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if errors.Is(err, os.ErrPermission) {
		return nil, nil // without privilege nothing will be forwarded by us either
	}
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var warnings []string
	for _, ch := range chains {
		if !filtersForwarded(ch) || strings.HasPrefix(ch.Table.Name, "portico") {
			continue
		}
		drops := ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop
		accepted := false
		for _, of := range chains {
			if of.Table.Name != ch.Table.Name || of.Table.Family != ch.Table.Family {
				continue
			}
			rules, err := conn.GetRules(of.Table, of)
			if err != nil {
				return nil, fmt.Errorf("read nftables chain %s of table %s: %w", of.Name, of.Table.Name, err)
			}
			accepted = accepted || slices.ContainsFunc(rules, c.acceptsOurs)
			if of.Name == ch.Name && len(rules) > 0 {
				drops = drops || endsAll(rules[len(rules)-1])
			}
		}
		if drops && !accepted {
			warnings = append(warnings, c.explainFirewall(ch, chains))
		}
	}
	return warnings, nil
}

func filtersForwarded(ch *nftables.Chain) bool {
	if ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || ch.Type != nftables.ChainTypeFilter {
		return false
	}
	f := ch.Table.Family
	return f == nftables.TableFamilyIPv4 || f == nftables.TableFamilyIPv6 || f == nftables.TableFamilyINet
}

// endsAll tells whether a rule refuses every packet that gets to it.
func endsAll(r *nftables.Rule) bool {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			return true
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return false
}

// acceptsOurs tells whether a rule lets through what is said, in whatever form, to
// be of our links or guests: somebody has followed the advice.
func (c Config) acceptsOurs(r *nftables.Rule) bool {
	about, accept := false, false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Cmp:
			about = about || bytes.HasPrefix(e.Data, []byte("portico"))
			for _, g := range c.Guests {
				about = about || bytes.HasPrefix(g.Addr().AsSlice(), e.Data) && len(e.Data) >= g.Bits()/8 && len(e.Data) > 1
			}
		case *expr.Verdict:
			accept = accept || e.Kind == expr.VerdictAccept || e.Kind == expr.VerdictJump || e.Kind == expr.VerdictGoto
		}
	}
	return about && accept
}

// explainFirewall words the warning, with the commands of the program whose chain
// it is.
func (c Config) explainFirewall(ch *nftables.Chain, all []*nftables.Chain) string {
	family, has := familyName(ch.Table.Family), func(name string) bool {
		return slices.ContainsFunc(all, func(o *nftables.Chain) bool { return o.Name == name && o.Table.Family == ch.Table.Family })
	}
	var mend []string
	guests := func(format string) {
		for _, g := range c.Guests {
			if ch.Table.Family == nftables.TableFamilyINet || g.Addr().Is6() == (ch.Table.Family == nftables.TableFamilyIPv6) {
				mend = append(mend, strings.ReplaceAll(format, "%s", g.String()))
			}
		}
	}
	iptables := "iptables"
	if ch.Table.Family == nftables.TableFamilyIPv6 {
		iptables = "ip6tables"
	}
	switch {
	case ch.Table.Name == "firewalld":
		guests("firewall-cmd --permanent --zone=trusted --add-source=%s")
		mend = append(mend, "firewall-cmd --reload")
	case has("ufw-before-forward") || has("ufw6-before-forward"):
		guests("ufw route allow from %s")
		guests("ufw route allow to %s")
	case has("DOCKER-USER"):
		guests(iptables + " -I DOCKER-USER -s %s -j ACCEPT")
		guests(iptables + " -I DOCKER-USER -d %s -j ACCEPT")
	case ch.Table.Name == "filter" && ch.Name == "FORWARD":
		guests(iptables + " -I FORWARD -s %s -j ACCEPT")
		guests(iptables + " -I FORWARD -d %s -j ACCEPT")
	default:
		rule := fmt.Sprintf("nft insert rule %s %s %s", family, ch.Table.Name, ch.Name)
		mend = append(mend, rule+` iifname "`+LinkPrefix+`*" accept`, rule+` oifname "`+LinkPrefix+`*" accept`)
	}
	return fmt.Sprintf("a firewall of this host (nftables table %s %s, chain %s) drops forwarded packets, so guests will be cut off; let theirs through: %s",
		family, ch.Table.Name, ch.Name, strings.Join(mend, "; "))
}

func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return "inet"
}
