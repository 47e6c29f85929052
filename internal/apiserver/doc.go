// Package apiserver is the Kubernetes-compatible API: k8s.io/apiserver with one
// registry per resource, over an embedded etcd.
//
// In: HTTP requests. Out: objects in etcd, each write one transaction that also
// holds the addresses and ports the object claims, and watches. Field rules are
// core/service's and core/machine's; this package only calls them. It never talks
// to the kernel, runs no controller and doesn't know the agent.
//
//	request -> authenticate -> authorize -> decode, default -> admit
//	        -> registry strategy (validate) -> claims.Store (assign, one Txn) -> etcd
package apiserver
