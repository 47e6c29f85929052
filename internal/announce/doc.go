// Package announce collects what decides about the announcement of load-balancer
// addresses on this node, and hands it to those who announce.
//
//	Services with endpoints (an agent.Consumer) --+
//	Nodes (a watch) -------------------------------+--> announcing.Input --> Parts: l2, bgp
//	custom resources of metallb.io (a watch) ------+                      Faults
//
// Every Part gets each Input whole, after all three were listed once; changes that come
// together are handed over together. Nothing is decided here. Faults tells people what of
// the custom resources can't be: in the node's ConfigurationState and in events.
//
// Below it: greet has agents know of each other's life within 300 ms, l2 answers ARP and
// neighbour solicitations for addresses that this node holds, bgp speaks with routers,
// statuses writes what this node announces into the API.
package announce
