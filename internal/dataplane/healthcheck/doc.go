// Package healthcheck answers external load balancers on the health check node
// ports of Services with externalTrafficPolicy Local: does this node have an
// endpoint, and how many.
//
// In: views of Services (Server is an agent.Consumer), the node-port addresses,
// and a function that tells whether the data plane is healthy. Out: HTTP on one
// port for each such Service, with the status, header and body of kube-proxy,
// which load balancers of cloud providers know (KEP-1669, service.spec.healthCheckNodePort).
//
// It counts endpoints that are ready: one that terminates still serves, but the
// load balancer should send new connections elsewhere. It never touches rules.
package healthcheck
