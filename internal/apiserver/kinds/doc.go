// Package kinds describes the built-in kinds: the scheme with their types and defaults, and
// for each its names, its rules, its columns, and what it does beyond storing.
//
// In: objects that were decoded. Out: the same with defaults, or what is wrong with them. The
// rules of Services and of virtual machines are core/service's and core/machine's. Rights,
// reviews and the verbs on machines are apiserver's, which wires all of it.
package kinds
