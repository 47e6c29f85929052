// Package claims makes what an object claims (cluster IPs, node ports, guests'
// addresses) part of the object's own etcd transaction.
//
// A claim is a private key beside the objects, /registry/portico/claims/<claim>,
// whose value is the UID of its owner. Store wraps the etcd store of one resource
// below the watch cache, so that every way an object can be written or removed
// (deletecollection, the last finalizer's removal, server-side apply's create)
// passes it. A write that needs claims compares, in one transaction, that the
// object is at the expected revision and that each new claim's key is absent; a
// delete removes the claims with the object. So a write that fails leaks nothing
// and no crash can come between an object and its claims.
//
//	Store.Create / GuaranteedUpdate / Delete      what claims, new and old
//	   -> etcd3 store (encode, retry)
//	      -> client.OptimisticPut / OptimisticDelete: one Txn with the claims
//
// Which claims an object has, and which address it gets when it asks for any, is
// the Policy's to say: pure functions over core/ipam. Allocators in memory are
// hints only; Mirror keeps them near the truth by watching the claims' keys.
package claims
