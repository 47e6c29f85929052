// Package guest builds the small guest that the demo and the tests boot: the
// kernel of Debian's linux-image-cloud-amd64, unpacked and never installed, and an
// initramfs whose only program is ./init.
//
// In: Debian's package archive (or the cache) and this source tree. Out: a
// kernel, an initramfs, and an OCI archive that holds both under /boot, for
// `portico image import`. Results are cached by content: the second build
// downloads nothing and writes nothing.
package guest
