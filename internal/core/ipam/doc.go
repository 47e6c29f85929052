// Package ipam chooses addresses and ports: cluster IPs and node ports for Services,
// addresses and MACs for guests. It also says, as a pure function of an object, which
// of them the object claims.
//
// In: an object that service has prepared and found valid, and its stored version. Out:
// the same object with what it lacked, and the keys that the storage must claim for it
// in the transaction that writes it.
//
// What this package remembers is a hint. The truth is the claims in etcd, which several
// API servers share: a pool may think an address free that is taken (the transaction
// says so, and Assignment.Conflict picks another) or taken that is free (Replace and
// Free put that right). So nothing here refuses an explicit choice because somebody
// else seems to hold it; only the transaction does.
//
// It never reads or writes etcd, starts no goroutine and reads no clock. All types are
// safe for concurrent use, except that an Assignment belongs to the request it was
// made for.
package ipam
