// Package process runs the servers that are measured, and reads what they use.
//
// In: a command line and a folder for its log. Out: a process that ends with ours, its
// memory and its processor time, from /proc.
package process
