// Package kubevirt is the client side of the kubevirt.io/v1 API: its types in a
// scheme, clients and informers for VirtualMachines and VirtualMachineInstances.
// The types are kubevirt.io/api's; the clients are client-go's generic ones,
// because KubeVirt's own client drags in half of its product.
//
// In: a server's address and credentials, or anything else that implements
// Interface (package fake has one in memory). Out: objects. It decides nothing
// and keeps no state of its own.
package kubevirt
