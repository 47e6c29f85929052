// Package loadbalancers gives Services of type LoadBalancer their addresses (LB-01, LB-06).
//
//	Services, Namespaces, Nodes --watch--+
//	IPAddressPools --metallb.Follow------+--> queue, one worker --> core/pools decides
//	                                              |
//	     Service: status.loadBalancer, the pool's annotation, the finalizer, a condition; events
//	     IPAddressPool: counts;  ConfigurationState "controller": what is wrong with the pools
//
// Beside it, for the nodes that announce: the right to read the Secrets that BGPPeers name,
// and the removal of what nodes that are gone said of themselves.
//
// In: objects, and the ranges that no load balancer may have. Out: the writes above, each of
// a Service's in one update of its status. It announces nothing: nodes do, from what it wrote.
package loadbalancers
