// Package network makes the hosts of a benchmark: network namespaces without names, and
// wires between them.
//
// In: names of links, addresses, prefixes. Out: namespaces that go when they are closed.
// It never touches the host's own network: who uses it runs in a namespace of its own.
package network
