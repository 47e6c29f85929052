// Package service holds the rules of a core/v1 Service as the API keeps it: its
// defaults, what a client may ask for, and what a change of type, family or policy
// means for the fields that belong to the old and the new shape.
//
// In: the Service that a client sent, the one that is stored (on updates), and the
// address families of the cluster. Out: the same Service with everything filled in
// that can be known without choosing an address or a port, a list of every bad field
// with the paths and messages of Kubernetes, and warnings.
//
// The order in which the API server calls it:
//
//	SetDefaults -> PrepareForCreate -> Validate                 (create)
//	SetDefaults -> PrepareForUpdate -> ValidateUpdate           (update)
//	PrepareForStatusUpdate -> ValidateStatusUpdate              (status)
//
// and afterwards ipam.Pools.Assign gives the Service the addresses and ports that it
// still lacks. Validation therefore accepts a Service without them.
//
// It never chooses addresses, knows no other Service and does no I/O. A prepared and
// valid Service passes through it unchanged.
package service
