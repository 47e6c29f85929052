// Package certs is the cluster's certificate authority: one key in the data directory,
// and certificates for servers, people and nodes signed by it (OPS-05).
//
// In: the folder of the authority, a clock. Out: certificates with their keys, and those
// that renew themselves (Leaf, Serving) for what runs longer than a certificate lives.
// Private keys of leaves live in memory or in a kubeconfig, never beside the authority.
// Certificates are backdated by a day, so that a host whose clock is behind accepts them
// at once. The authority itself lives ten years and is never replaced by itself: that
// would make every kubeconfig invalid.
package certs
