// Package metallb has the custom resources of the group metallb.io as Go values: which
// addresses load balancers may give away, and how these are announced. They are MetalLB's
// own (release 0.16), so that its manifests work unchanged; here they are CRDs, and these
// types are what a program sees of them.
//
// Nothing here is computed. Who reads an object checks it: a field of a custom resource
// holds what a schema lets pass.
package metallb
