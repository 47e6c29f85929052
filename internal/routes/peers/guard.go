package peers

import (
	"context"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/ruleset"
)

// vni is the number of our VXLAN network, "por" in ASCII. It tells our packets from those
// of others that use the same port.
const vni = 'p'<<16 | 'o'<<8 | 'r'

// protect keeps strangers out of the tunnels. VXLAN has no authentication: without this,
// who can send to this node could speak as any pod.
func (k *Keeper) protect(ctx context.Context, plan mesh.Plan) error {
	var from []netip.Addr
	for _, t := range plan.Tunnels {
		for _, r := range t.Remotes {
			from = append(from, r.At)
		}
	}
	slices.SortFunc(from, netip.Addr.Compare)
	from = slices.Compact(from)
	if k.guard == nil && len(from) == 0 {
		_, err := ruleset.Remove(routes.PeerTable) // of an earlier run
		return err
	}
	if k.guard != nil && slices.Equal(from, k.trusted) {
		return nil
	}
	table := guard(k.cfg.Port, from)
	if k.guard != nil {
		if err := k.guard.Replace(table); err != nil {
			return err
		}
		k.trusted = from
		return nil
	}
	keeper, err := ruleset.Keep(table, k.log)
	if err != nil {
		return err
	}
	k.guard, k.trusted = keeper, from
	k.guards.Go(func() {
		if err := keeper.Run(ctx); err != nil {
			k.log.Error("No more news of nftables; changes by others are not mended", "error", err)
		}
	})
	if k.cfg.Guarded == nil {
		return nil
	}
	return k.cfg.Guarded(keeper)
}

// guard is the table. It looks at what this host itself is sent: all that it forwards would
// pay for a look before routing.
func guard(port uint16, from []netip.Addr) ruleset.Table {
	peers := ruleset.Chain{Name: "peers"}
	for _, a := range from {
		peers.Rules = append(peers.Rules, ruleset.Rule{ruleset.Source(netip.PrefixFrom(a, a.BitLen())), ruleset.Return()})
	}
	peers.Rules = append(peers.Rules, ruleset.Rule{ruleset.Drop()})
	return ruleset.Table{Name: routes.PeerTable, Chains: []ruleset.Chain{peers, {
		Name: "tunnels", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Priority: nftables.ChainPriorityRaw,
		Rules: []ruleset.Rule{{ruleset.VXLAN(port, vni), ruleset.Jump("peers")}},
	}}}
}
