// Package ipvs is the data plane on the kernel's IP Virtual Server.
//
// In: frontends, through dataplane.Backend. Out: virtual servers, by generic netlink; the
// nftables tables `ip portico-ipvs` and `ip6 portico-ipvs`; a routing table with a rule that
// leads to it; the sysctls below net/ipv4/vs; deletions in conntrack.
//
// plan.go says, as a pure function of the frontends of one Service port, which virtual
// servers there are and what the sets of the tables hold. IPVS has one set of backends for an
// address and port, whoever asks; the rules do the rest: they refuse, drop, guard, masquerade,
// and lead some packets to another virtual server of the same Service port first. Packets
// from other machines are marked and the mark routes them to this host, so that no address
// of a Service is one of the node's and none is answered for by ARP or NDP.
//
// Never touched: virtual servers whose key isn't in our own set of the kernel, those in
// excluded ranges, rules and routes of others.
package ipvs
