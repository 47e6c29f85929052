// Package system keeps what every cluster has: the namespaces default, kube-system,
// kube-public and kube-node-lease, the Service `kubernetes` with the living API
// servers behind it (API-11), and the Service `kube-dns` at the tenth address of the
// range with every node's DNS server behind it, of which clients prefer their own node's.
//
// In: Nodes and the leases of API servers, by watch. Out: namespaces, the two
// Services and their slices and Endpoints.
package system
