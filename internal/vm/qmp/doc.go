// Package qmp speaks QEMU's machine protocol: JSON commands, replies and events
// over a stream, one object a line.
//
// In: a connection to a QMP monitor. Out: the reply of each command, and events.
// It knows no command by name except the handshake and never starts QEMU.
//
// Protocol: https://www.qemu.org/docs/master/interop/qmp-spec.html
package qmp
