// Package authz lets requests through that RBAC allows.
//
// In: the RBAC objects, by the server's own informers; the attributes of a request.
// Out: allowed, or no opinion; the rules of a user, for reviews; whether a user may
// grant rules to others. What rules mean is core/rbac's. It also makes the default
// roles and bindings at the start of a server.
//
// A changed binding counts once its watch event is here, some milliseconds after
// the write. A server isn't ready before the default ones count.
package authz
