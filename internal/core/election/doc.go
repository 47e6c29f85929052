// Package election decides which node answers for a load-balancer address on a link.
//
// In: announcing.Input, what is known of living nodes (links, claims). Out: for each address
// the nodes that may hold it, those that may not with the reason, and the holder with the
// reason. It has no clock and no memory: nodes that know the same decide the same.
//
//	Contests   which nodes may hold which address, and on which links
//	Decide     one address, its candidates, the claims of living nodes -> its holder
//
// The rules of Decide, in their order:
//
//  1. Who claims an address holds it, whoever would be elected: a node that comes back
//     takes nothing. Of several claims (a partition has healed, a frozen node has woken)
//     the highest term counts, the take-over that came last; of equal ones the better rank.
//  2. Claims that yield count when nobody else can take the address.
//  3. What nobody claims goes to the candidate of the best rank. Ranks are by the hash of
//     node and address (rendezvous hashing), so that addresses spread evenly and the loss
//     of a node moves no other's.
//
// A living holder is the only one who may give an address up: nodes whose views of the API
// differ for a while would otherwise take it from each other in turns.
package election
