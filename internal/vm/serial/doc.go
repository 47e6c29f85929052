// Package serial shares a guest's serial console: one connection to QEMU, any
// number of people, and a log.
//
// In: the connection to QEMU's console socket. Out: for each session what the
// guest printed lately and then all that it prints; what sessions write goes to
// the guest. A session that doesn't read loses its oldest output: neither the
// guest nor other sessions ever wait for it.
package serial
