// Package statuses keeps a node's objects in the API by which people see what it announces:
// ServiceL2Status, ServiceBGPStatus and ConfigurationState, named and labelled as MetalLB's
// users look for them.
//
//	l2, bgp, faults -- Set: all that there should be --> Writer -- by differences --> the API
//
// A Writer has one kind, writes the newest only, and tries again while the API is away. Of
// other nodes' objects it touches none: those of nodes that are gone are removed by
// controllers/loadbalancers.
package statuses
