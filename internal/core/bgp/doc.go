// Package bgp decides what a node tells its BGP routers: which sessions it has, with all
// their settings, and on each the prefixes with their attributes.
//
//	announcing.Input (BGPPeers, BGPAdvertisements, BFDProfiles, Communities, pools, nodes,
//	Services) -- Decide --> Plan: Sessions with Paths, what is left out and why, Faults
//
// It is pure: the same input gives the same plan on every node but for the node's own name.
// It opens no socket, reads no Secret and knows no library; announce/bgp makes a speaker
// equal to the plan.
package bgp
