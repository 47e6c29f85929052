// Package image is this node's store of container images, from which guests get
// their kernels.
//
// In: OCI archives and docker-save archives, as files. Out: single files out of
// an image, extracted once and kept. It never pulls from a registry and never
// writes outside its folder: names inside an archive choose no path on the host.
//
//	DIR/<hash of the reference>/ref       the reference, as people write it
//	                           /digest    of the image's manifest
//	                           /layout/   an OCI image layout
//	                           /files/    extracted files, named by a hash of their path
//
// An image's folder appears and disappears by a rename, so that the daemon may
// read while `portico image import` writes.
package image
