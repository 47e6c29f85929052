// Package proxy serves services/NAME/proxy and pods/NAME/proxy (API-14): HTTP requests,
// streams and upgraded connections that the API server passes on to a workload.
//
// In: an allowed request for [scheme:]NAME[:PORT], and the registries. Out: a connection
// to the address of one pod, which the pod's own status confirms. It never connects to an
// address that only a hand-written EndpointSlice names, nor to loopback, link-local or
// cloud metadata addresses: who may write a Service must not borrow the server's place
// in the network (CVE-2020-8562, CVE-2021-25740). It never decides who may ask: that is
// done by the roles' verbs on services/proxy and pods/proxy before.
package proxy
