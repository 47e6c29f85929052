// Package peers makes the kernel's routes to the other nodes what core/mesh plans, and
// keeps them so.
//
// In: the Nodes and the guests' pods, as the agent's watches tell them, and this host's
// links and routes. Out: routes marked with routes.PeerProtocol, up to two VXLAN links
// with their addresses, neighbours and forwarding entries, and one nftables table which
// lets only peers into them. What an earlier run left is adopted, and nothing changes
// before the first Set; Close changes nothing. Removal is routes.Teardown's.
//
// It never touches links, routes and rules of others: where somebody else routes the same
// destination, his route wins, for ours have a higher metric.
package peers
