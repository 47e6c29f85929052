// Package registry turns the description of a kind into its REST storage.
//
// In: a Kind, which is names, rules and columns, and where it is stored. Out: a Set of
// storages for k8s.io/apiserver to serve. It knows no kind by name, and decides nothing that
// a Kind's rules could.
package registry
