// Package endpoints computes a Service's endpoints: the EndpointSlices and the
// (older) Endpoints object that say where its pods answer.
//
// In: one Service, the pods its selector matches, the zones of nodes, and the
// slices that exist. Out: a Plan of the fewest writes that make the slices
// right, or the Endpoints object as it should be.
//
// Everything is a pure function of its arguments: no API, no clock, no state
// between calls. What the slices say depends only on Service and pods, never on
// the order of events that led there; only how endpoints are spread over
// several slices, and the slices' names, depend on what exists already, because
// leaving an endpoint where it is saves a write (and its fan-out to all nodes).
//
// It never decides which endpoint gets traffic: that is routing's job.
package endpoints
