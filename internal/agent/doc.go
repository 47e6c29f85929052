// Package agent is what runs on every node, wired together: it watches Services,
// EndpointSlices, this Node and ServiceCIDRs, turns them into catalog values and
// hands them on.
//
// In: an API server, by client-go. Out: for each Service that changed, its present
// View to every Consumer (the data plane, the DNS server); and the ranges of cluster
// IPs whenever they change. It never writes the API and never decides what a Service
// means.
//
// Run's reflectors only feed state; one goroutine hands its news to the consumers,
// so that what changes while they work is handed over once, as it is then.
package agent
