// Package quota keeps the status of ResourceQuotas: what may be used, and what is.
//
//	Services, pods, other objects' metadata -> tallies -> sync one quota -> its status
//	admission (in each API server) --------------- charges -------------------^
//
// In: quotas and the objects that they count, by watch. Out: status.hard and
// status.used, nothing else.
//
// Admission raises status.used before an object is stored; this controller lowers it
// when an object went. So a count of what is there may be less than what was charged,
// for a moment: writing it would give away a place that a create under way has taken.
// Hence the controller refunds what it saw go, object by object, raises to what is
// there, and lowers to what is there only when the status has been still for longer than
// any write takes. All writes name the version they began from.
package quota
