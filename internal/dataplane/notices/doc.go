// Package notices opens nftables for a back end and tells it when somebody else changed its
// tables.
//
// In: the kernel's notices of nftables in the network namespace of the calling thread, but
// for those of the back end's own writer. Out: the writer's connection, and a value in a
// channel. It never reads or writes a table.
package notices
