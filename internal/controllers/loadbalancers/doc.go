// Package loadbalancers gives Services of type LoadBalancer their addresses (LB-01, LB-06).
//
//	Services, Namespaces, Nodes, ServiceCIDRs --watch--+
//	IPAddressPools --metallb.Follow--------------------+--> queue, one worker --> core/pools decides
//	                                                            |
//	     Service: status.loadBalancer, the pool's annotation, the finalizer, a condition; events
//	     IPAddressPool: counts;  ConfigurationState "controller": what is wrong with the pools
//
// Beside it, for the nodes that announce: the right to read the Secrets that BGPPeers name,
// and the removal of what nodes that are gone said of themselves.
//
// Metrics say how full pools are and how many Services wait.
//
// It runs with the other controllers, or, on an API server that isn't ours, in an agent.
//
// In: objects, and the ranges that no load balancer may have. Out: the writes above, each of
// a Service's in one update of its status. It announces nothing: nodes do, from what it wrote.
package loadbalancers
