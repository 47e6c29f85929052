// Package apiclient talks to a Kubernetes API over one HTTP/2 connection, at little cost
// of its own, so that on a small machine the servers that are measured get the
// processors.
//
// In: how to reach a server, or its kubeconfig. Out: requests and watches as JSON bytes.
package apiclient
