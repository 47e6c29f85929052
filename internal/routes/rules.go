package routes

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"portico.dev/portico/internal/routes/ruleset"
)

// table makes our nftables table: the way out, and a guard.
//
//   - What pods and guests (and this node, by its address in the pods' range) send
//     to the world gets the address of the link by which it leaves; what stays
//     inside the cluster's ranges keeps its source.
//   - Links that forward only because of us are no thoroughfare: what neither
//     comes from nor goes to the cluster, and was sent to no Service, would have
//     been dropped without us and is dropped.
func (n *Network) table() ruleset.Table {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.written = n.ruledLocked()
	c := n.cfg
	c.Services = n.written.services
	return plan(c, n.written.guarded)
}

// ruled is what can change in the table.
type ruled struct {
	guarded  guarded
	services []netip.Prefix
}

func (r ruled) equal(o ruled) bool {
	return r.guarded.equal(o.guarded) && slices.Equal(r.services, o.services)
}

// ruledLocked gives what the table should be made from. n.mu is held.
func (n *Network) ruledLocked() ruled { return ruled{n.openedLocked(), n.services} }

func plan(c Config, g guarded) ruleset.Table {
	var inside, out []ruleset.Rule
	for _, r := range slices.Backward(c.ranges()) { // a Service's packet has its backend's address by now
		inside = append(inside, ruleset.Rule{ruleset.Destination(r.prefix), ruleset.Return()})
	}
	for _, list := range [][]netip.Prefix{c.Cluster, c.Guests} {
		for _, p := range list {
			out = append(out, ruleset.Rule{ruleset.Source(p), ruleset.Jump("way-out")})
		}
	}
	transit := append(inside[:len(inside):len(inside)], ruleset.Rule{ruleset.OutNotPrefix(LinkPrefix), ruleset.NotDNAT(), ruleset.Drop()})
	// Most packets are of connections, and meet one rule.
	forward := []ruleset.Rule{{ruleset.StateNot(expr.CtStateBitNEW | expr.CtStateBitINVALID), ruleset.Return()}}
	for _, l := range g.ipv4 {
		forward = append(forward, ruleset.Rule{ruleset.In(l), ruleset.Family(false), ruleset.Jump("transit")})
	}
	for _, l := range g.ipv6 {
		forward = append(forward, ruleset.Rule{ruleset.In(l), ruleset.Family(true), ruleset.Jump("transit")})
	}
	t := ruleset.Table{Name: Table, Chains: []ruleset.Chain{
		// What stays on the host needs no other address, and lo has none to give.
		{Name: "way-out", Rules: append(inside[:len(inside):len(inside)], ruleset.Rule{ruleset.OutNot("lo"), ruleset.Masquerade()})},
		{
			Name: "postrouting", Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting,
			Priority: nftables.ChainPriorityNATSource, Rules: out,
		},
	}}
	if len(g.ipv4)+len(g.ipv6) > 0 { // each forwarded packet pays for a hook, with or without rules
		t.Chains = append(t.Chains, ruleset.Chain{Name: "transit", Rules: transit}, ruleset.Chain{
			Name: "forward", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward,
			Priority: nftables.ChainPriorityFilter, Rules: forward,
		})
	}
	return t
}
