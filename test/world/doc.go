// Package world is a node and a client outside, as two network namespaces on one
// wire, with Portico on the node. The demo and the end-to-end tests play in it.
//
// It changes nothing of the host but those namespaces and one folder, and removes
// both.
package world
