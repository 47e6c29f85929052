// Package dns is the node's DNS server: it answers for the cluster's zone and
// for the reverse zones of its ranges from precomputed records, and forwards the
// rest.
//
// In: views from the agent (Server is an agent.Consumer), pods from dns/pods, queries by
// UDP, TCP and TLS on sockets that Listen and ListenTLS opened. Out: answers, to guests,
// pods and the host only. docs/dns.md draws the flow.
//
// It never touches the API, and never decides what a Service's records are: that
// is core/records. Everything about other people's names is in dns/forward, and what
// people have set themselves comes from dns/settings, by Configure. That the host's own
// programs ask here is dns/resolved's affair.
package dns
