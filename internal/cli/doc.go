// Package cli is the command line: one file per command, their flags, output and
// exit codes. It is also where the parts are wired together; nobody imports it.
package cli
