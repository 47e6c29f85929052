// Package agent is what runs on every node, wired together: it watches Services,
// EndpointSlices and this Node, turns them into catalog values and hands them on.
//
// In: an API server, by client-go. Out: for each Service that changed, its present
// View to every Consumer (the data plane, the DNS server). It never writes the API
// and never decides what a Service means.
//
// Run's reflectors only feed state; one goroutine hands its news to the consumers,
// so that what changes while they work is handed over once, as it is then.
package agent
