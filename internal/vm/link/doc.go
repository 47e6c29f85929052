// Package link gives each guest its routed link: a tap in the agent's network
// namespace, the host routes to the guest, and on the tap a DHCPv4 server, a
// router's advertisements and a DHCPv6 server that hand the guest its addresses.
//
// In: Guests, as values. Out: an open tap for QEMU, links, addresses, neighbours
// and routes in the kernel, one nftables table against spoofing, and answers to
// what the guest asks on its link. What others remove is put back.
//
// There is no bridge: guests meet only through the node's routing and its rules.
// It never touches links of others, allocates no address, and knows neither QEMU
// nor the API. The way out, forwarding and portico0 are internal/routes'.
package link
