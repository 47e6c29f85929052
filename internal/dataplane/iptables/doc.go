// Package iptables is the data plane on iptables and ip6tables, for hosts whose firewall or
// habit asks for them.
//
// In: frontends, through dataplane.Backend. Out: chains named PORTICO-* in the tables nat
// and filter of both families, written by iptables-restore in batches that hold only the
// chains that change, and deletions in conntrack. Both variants of the programs are
// known, legacy and nf_tables; the one that the host uses is taken.
//
// A packet finds its frontend by bits of its address or port (tree.go), then draws a backend
// in the chain of the set (draw.go), which all frontends of a Service port share. So a change
// rewrites one small chain of the tree and one set. What is planned is written exactly as
// iptables-save prints it, and compared so.
//
// Never touched: rules and chains of others, apart from one jump of ours at the head of
// each chain of the kernel's that leads to us.
package iptables
