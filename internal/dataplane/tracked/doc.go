// Package tracked is what back ends share of reading and ending the connections that the
// kernel tracks.
//
// In: the flows of conntrack in the network namespace of the calling thread. Out: numbers of
// connections by frontend, and deletions of the flows that a back end calls stale. It never
// decides which those are, and never touches rules.
package tracked
