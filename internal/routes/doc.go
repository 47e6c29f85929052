// Package routes makes a node's own network: portico0 with the node's addresses of
// the cluster, routes to the Services' range, forwarding, and the way out for what
// runs here.
//
// In: the cluster's ranges and this node's part of them. Out: a bridge without
// ports, its addresses and routes (all marked with RouteProtocol), a few kernel
// parameters (recorded, so that Teardown puts them back) and one nftables table,
// all kept as they are while the Network is open. Besides: checks of the ranges
// against the host before anything starts, and the node's primary addresses.
//
// It never touches links, routes, addresses and rules of others, and knows neither
// Services nor guests; the guests' links are vm/link's.
package routes
