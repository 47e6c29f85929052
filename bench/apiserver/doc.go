// Package apiserver starts the API servers that are measured: Portico's, which is one
// process with store and controllers, and Kubernetes' own, of several.
//
// In: their binaries and an empty folder. Out: a Server that answers, with the
// administrator's access to it and what it uses of the machine.
package apiserver
