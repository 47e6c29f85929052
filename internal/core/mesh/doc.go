// Package mesh decides how a node reaches the pods and guests of the other nodes.
//
// In: the Nodes, the guests' pods, and how this host reaches the other nodes' own
// addresses. Out: for each peer the way to it and the reason, and what the kernel is to
// have: routes, and tunnels with their neighbours. The same values give the same plan;
// nothing here looks at a host or changes one.
//
// Each family of a peer's ranges has a way of its own. Direct: the peer's address of that
// family is on a link of this host, so its ranges are routed by that address as they are.
// VXLAN (RFC 7348): it isn't, and packets travel inside UDP between the nodes' addresses.
package mesh
