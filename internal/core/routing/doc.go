// Package routing decides where packets for a Service go.
//
// In: one Service, its EndpointSlices and the node it is decided for, as catalog
// values. Out: the Service's frontends, each with its backend sets and, for each
// origin of a packet, a verdict with its reason, and the endpoints that are left out
// with theirs. Table unites the frontends of all Services and says what a change of one
// of them changes in the whole. Problems says what of a Service isn't served as its
// owner wrote it, for a condition.
//
// Everything is a pure function of its input: no clock, no I/O, no order of
// events. The same objects give the same frontends on every run; only the node
// makes a difference. How a verdict is carried out is the data plane's business.
package routing
