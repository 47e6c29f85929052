// Package disk looks at disk images before QEMU may open them, and makes empty
// ones.
//
// In: a path on this node. Out: the image's format, or a sentence that says why
// it may not be used. An image that names a backing file or an external data
// file would make QEMU read any file of the host, so both are refused, and
// neither QEMU nor qemu-img is ever left to guess a format: the first bytes,
// which a guest can write when it owns a raw disk, decide only between "raw" and
// "inspect as qcow2".
package disk
