// Package door is the node's door: the HTTPS server of a node for streams that
// pass from the API server to a workload, at the port that
// Node.status.daemonEndpoints.kubeletEndpoint names; and the client side of it.
//
// In: requests with a client certificate that Allow accepts. Out: consoles, the
// node's pods, health. It holds no state of its own and imports little, so that
// the API server can use the client.
//
//	GET /healthz
//	GET /pods                            a PodList, as a kubelet gives it
//	GET /console/{namespace}/{instance}  Upgrade: portico-console; then raw bytes
package door
