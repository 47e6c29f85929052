// Package nodes tests clusters of several nodes: hosts as network namespaces on one LAN,
// each with a Portico of its own.
package nodes
