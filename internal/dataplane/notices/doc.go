// Package notices tells a back end when somebody else changed its tables in nftables.
//
// In: the kernel's notices of nftables in the network namespace of the calling thread, but
// for those of the back end's own writer. Out: a value in a channel. It never reads or writes
// a table.
package notices
