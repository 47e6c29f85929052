// Package ruleset writes one nftables table of ours into the kernel, whole and in
// one transaction, and keeps it there.
//
// In: a Table, as a value made of chains, rules and matches that this package
// names. Out: the kernel's table, and its reappearance when somebody flushes it
// (`nft flush ruleset`, a firewall's reload). Tables of other names are only read
// past.
//
// It is for small tables of fixed rules (the node's way out, the guests' links).
// The Services' rules are the data plane's, which writes changes, not tables.
package ruleset
