// Package certs is the cluster's certificate authority: one key in the data
// directory, and certificates for servers, people and nodes signed by it.
//
// Private keys of leaves live in memory or in a kubeconfig, never beside the CA.
// Certificates are backdated, so that a host whose clock is a little off still
// accepts them (OPS-05).
package certs
