package link

import (
	"net/netip"

	"github.com/google/nftables"

	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/ruleset"
)

// guard is the table that keeps guests to their own addresses. It looks before
// connection tracking does, so that a liar costs no entry there.
//
// rp_filter=1 on the taps does the same for IPv4, but the kernel takes the larger
// of conf/all's and the link's value, and 2 ("loose"), which some distributions
// set, passes any source that has a route.
func guard() ruleset.Table {
	host := func(s string) netip.Prefix { a := netip.MustParseAddr(s); return netip.PrefixFrom(a, a.BitLen()) }
	linkLocal, allLinkLocal := netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff02::/16")
	const routerAdvertisement, redirect = 134, 137 // RFC 4861 sections 4.2 and 4.5
	return ruleset.Table{Name: routes.LinkTable, Chains: []ruleset.Chain{{
		Name: "guests", Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
		Rules: []ruleset.Rule{
			{ruleset.InNotPrefix(routes.LinkPrefix), ruleset.Return()},
			// Who has no address yet says so: 0.0.0.0 asks DHCP, :: detects duplicates.
			// The kernel forwards neither.
			{ruleset.SourceNot(host("0.0.0.0")), ruleset.NoRouteBack(), ruleset.Drop()},
			{ruleset.SourceNot(linkLocal), ruleset.SourceNot(host("::")), ruleset.NoRouteBack(), ruleset.Drop()},
			// A guest is no router of ours.
			{ruleset.ICMPv6(routerAdvertisement), ruleset.Drop()},
			{ruleset.ICMPv6(redirect), ruleset.Drop()},
			// We answer these from below the stack: no other server of this host
			// shall, nor the stack say that nobody listens.
			{ruleset.Destination(host("255.255.255.255")), ruleset.UDPTo(dhcp4Server), ruleset.Drop()},
			{ruleset.Destination(host(Gateway4.String())), ruleset.UDPTo(dhcp4Server), ruleset.Drop()},
			{ruleset.Destination(allLinkLocal), ruleset.UDPTo(dhcp6Server), ruleset.Drop()},
			{ruleset.Destination(linkLocal), ruleset.UDPTo(dhcp6Server), ruleset.Drop()},
		},
	}}}
}
