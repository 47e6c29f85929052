// Package rtevent tells when the kernel's links, addresses, routes or forwarding
// switches change, by whomever.
//
// In: rtnetlink's multicast groups of the calling thread's network namespace.
// Out: one Event for each message, or a Lost event when the kernel dropped some.
// It changes nothing and keeps no state; who cares looks at the kernel again.
package rtevent
