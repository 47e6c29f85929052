// Package forward finds answers to questions that are none of ours: it asks the
// upstream servers of resolv.conf and remembers what they say for as long as
// they allow.
//
// In: a question (class IN). Out: an Answer that lies ready in wire form behind
// the question. Many clients that ask the same at once cost one upstream query.
//
// It never decides which names are foreign and knows nothing of Services.
package forward
