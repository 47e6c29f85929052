// Package bootstrap is how a host becomes a node: the rules of bootstrap tokens, the
// joining node's side of TLS bootstrap, and the identity that it has afterwards.
//
//	token + hash -> authority (fetched, then checked) -> request -> certificate -> Home
//	Home -> Keeper: renews what is in it while the node runs
//
// In: what a person gives to `portico join`, the API, a folder. Out: Secrets of tokens,
// CertificateSigningRequests, files in the folder. It approves and signs nothing: that
// is a controller's, on the server's side. It knows nothing of what a node then does.
package bootstrap
