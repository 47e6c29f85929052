// Package endpoints keeps the EndpointSlices and the Endpoints of all Services:
// it watches Services, pods, nodes and what it wrote, lets core/endpoints decide,
// and writes the difference.
//
// In: the API's objects. Out: EndpointSlices, Endpoints, and one condition on
// Services whose selector matches nothing. Slices and Endpoints that people
// wrote by hand, and everything of Services without a selector besides the
// mirror of hand-written Endpoints, are never touched.
//
// It is level-triggered: an event only says which Service to look at again. A
// look costs no write when nothing changed. There is no batching delay: what
// several events change before a worker comes to it is one write, and a lost
// endpoint is written at once.
package endpoints
