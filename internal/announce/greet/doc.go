// Package greet has agents tell each other, many times a second, that they live and what
// they hold: leases in the API are too slow for a fail-over below a second.
//
// In: the peers' addresses and the cluster's key; what this node says of itself, a Word;
// datagrams. Out: a View of which peers live, and what they said last; whether this node
// itself is fit to act. It decides nothing about addresses, and it never reads the wall
// clock: all times are the monotonic clock's.
//
//	Word --> [mesh] --> datagrams to each peer, each 50 ms
//	          mesh  <-- datagrams, checked: key, sequence, freshness
//	          mesh  --> View (peers that live, their Words)
//
// mesh is the state machine, without socket, clock or goroutine: simulations run it by the
// thousand. Mesh runs one over a UDP socket on a thread of its own.
//
// # Life and death
//
// A peer that was silent for two and a half intervals is suspected, and asked each half
// interval, at all its addresses. It is dead after five intervals of silence and five
// questions without an answer, together 250 to 300 ms. Two allowances keep a busy machine from making
// deaths. Each node measures how late its own thread comes, and says so in each greeting;
// three times the worst of the last seconds, the peer's or the own, is added to the limit,
// up to ten intervals. And a question counts only when the asking node itself was
// in time: who was away asks first and judges later.
//
// # A node that was away
//
// A thread that comes 200 ms late (the process was stopped, the machine paused) knows from
// its clock that the others may have given it up. From that moment Fit is false, until each
// living peer was heard anew, or a settling time has passed. The same goes for a start.
// Fit is also a lease in itself: it ends by itself when the thread doesn't come.
//
// # Trust
//
// Every datagram carries an HMAC-SHA256 with the cluster's key over its text and the
// receiver's name. It is fresh when it repeats a number that the receiver sent within the
// last second, under the receiver's number of this run; and of each run of a peer sequence
// numbers only grow. So what was recorded can't be played back, to another node or after a
// restart, and no clocks are compared. What is authentic but not fresh is answered and
// otherwise ignored: the answer lets an honest sender prove itself.
package greet
