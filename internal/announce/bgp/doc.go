// Package bgp tells routers which load-balancer addresses this node takes traffic for.
//
//	announcing.Input -- Set --> core/bgp.Decide --> Plan
//	Plan -- Run: by differences --> a gobgp server: peers, export policy, paths --> routers
//	        \-- bfd: a session for each peer that wants one; when it fails, the peer's session ends
//	sessions' states, what each router was told <-- State, Statuses, Faults, metrics
//	moves of sessions and routes --> Event, as many as the API is to bear
//
// It connects and never listens. Routes that routers send are refused. A change of paths
// never ends a session; a changed setting ends that of its peer only.
//
// One table serves all peers, and what a peer is told of a prefix is in the export policy:
// prefixes of which every peer is told the same things are a group, a path carries its
// group's number as LOCAL_PREF inside the table, and the policy turns (group, peer) into
// the attributes that go out. So Services come and go by paths alone.
//
// It writes no object and reads no Secret itself: passwords come by a function.
package bgp
