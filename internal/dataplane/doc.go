// Package dataplane keeps a node's kernel equal to its table of frontends.
//
// In: views of Services (Plane is an agent.Consumer) and the node-port addresses.
// Out: calls to one Backend, which programs the kernel by one technique.
//
// Plane holds the wanted state and hands over differences; a Backend holds what
// it knows of the kernel. When a Backend fails or the kernel was changed by
// somebody else, Plane asks for a full Sync, which reads the kernel and repairs
// what differs, and tries again with back-off until it succeeds. Nothing here
// touches the API, and nothing here decides where packets go: that is routing. Plane's
// Collector gives its metrics, and the kernel's, to whoever serves them.
package dataplane
