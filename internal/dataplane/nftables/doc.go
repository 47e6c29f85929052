// Package nftables is the data plane on the kernel's nf_tables, by netlink.
//
// In: frontends and node-port addresses, as dataplane.State and routing.Change.
// Out: one table per family (ip and ip6), stale conntrack entries deleted.
// It never runs a program and never touches another table.
//
// The rules are few and fixed; what changes are elements of maps. A packet's
// destination leads through a verdict map to the chain for its exact number of
// backends, which draws one slot of a second map; docs/dataplane.md draws it. So
// a change of one Service costs a few elements, however many Services there are.
//
// Layers, from the kernel up: conn (socket, transactions, dumps), wire (netlink
// attributes), expr (rule expressions), layout (the fixed tables, sets, chains
// and rules), element (keys and data of the maps), kernel (what the kernel holds
// of each frontend, and the plan that leads from there to what is wanted), refs (the
// address sets), sessions and affinity (a client's backend), guard (source ranges),
// readback (the same from a dump), ahead (a dump before it is needed), flowindex and flowlog (UDP
// flows that end with their backend), strays (flows that began before their Service), Backend; and
// Reader, which changes nothing (show, counters).
package nftables
