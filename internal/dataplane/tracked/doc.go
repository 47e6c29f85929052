// Package tracked is what back ends share of reading and ending the connections that the
// kernel tracks.
//
// In: the flows of conntrack in the network namespace of the calling thread. Out: numbers of
// connections by frontend, and deletions of the flows that a back end calls stale. Changes
// decides which those are for back ends that the kernel tells no more. Rules are never touched.
package tracked
