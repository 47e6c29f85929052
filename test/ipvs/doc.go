// Package ipvs runs the suite of test/dataplane on the IPVS data plane, in a guest whose
// kernel has IPVS whatever the host's can do.
//
// In: this source tree, Debian's kernel package, qemu. Out: one result for each test of the
// suite. Nothing of the host's network is touched.
package ipvs
