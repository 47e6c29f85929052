// Package addresses keeps the API's picture of addresses true, and the claims on them
// and on ports, which are the truth, in agreement with the objects.
//
//	Services' cluster IPs  -> one IPAddress each (mirror)
//	ServiceCIDRs           -> their finalizer and condition; gone when nothing of them is used
//	claims, all holders    -> what differs is repaired or told (check)
//
// In: Services, IPAddresses and ServiceCIDRs by watch, virtual machines by lists; the
// claims as the store has them. Out: IPAddresses, the status and the last finalizer of
// ServiceCIDRs, repaired claims, Events. What is wrong, and how it can be mended, is
// core/ipam's decision.
//
// It never gives an address: that is the API server's, in the transaction that writes an
// object. It needs Portico's own API server; a Kubernetes cluster has controllers of its
// own for this.
package addresses
