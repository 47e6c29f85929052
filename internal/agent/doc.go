// Package agent is what runs on every node, wired together: it watches Services,
// EndpointSlices and this Node, turns them into catalog values and hands them on.
//
// In: an API server, by client-go. Out: for each Service that changed, its present
// View to every Consumer (the data plane, the DNS server). It never writes the API
// and never decides what a Service means.
package agent
