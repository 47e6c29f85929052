// Package namespaces empties namespaces that are being deleted, and then lets
// them go by taking the finalizer "kubernetes" off their spec.
//
// In: Namespaces, discovery, the metadata of what is in them. Out: deletions,
// the conditions NamespaceDeletion* that clients know, the finalizer.
//
// A namespace goes only when every kind that the API serves was found empty in
// it. A kind that can't be listed, or a group that can't be discovered, keeps it,
// with a condition that says so.
package namespaces
