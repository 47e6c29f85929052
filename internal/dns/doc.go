// Package dns is the node's DNS server: it answers for the cluster's zone and
// for the reverse zones of its ranges from precomputed records, and forwards the
// rest.
//
// In: views from the agent (Server is an agent.Consumer), queries by UDP and TCP
// on sockets that the caller opened. Out: answers, to guests, pods and the host
// only. docs/dns.md draws the flow.
//
// It never touches the API, and never decides what a Service's records are: that
// is core/records. Everything about other people's names is in dns/forward, and what
// people have set themselves comes from dns/settings, by Configure.
package dns
