// Package records turns Services into DNS records, as the Kubernetes DNS
// specification 1.1.0 wants them (github.com/kubernetes/dns,
// docs/specification.md).
//
// In: a Service and its slices, as catalog values, and pods: for the names of virtual
// machines, which are ours and not the specification's. Out: first Owners, which say
// in plain values what each name holds; then a Table, in which every answer lies
// ready in wire form, so that a query is a look-up and a copy. A Table never
// changes: Zone, the one writer, makes the next one by copying only the path to
// the names that changed, so a change costs the same at 10 and at 30,000
// Services and readers need no lock.
//
// Environment gives the environment variables that describe Services to a
// process.
//
// It never touches sockets, clocks or goroutines; serial numbers are passed in.
package records
