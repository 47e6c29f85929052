// Package garbage deletes objects whose owners (metadata.ownerReferences) are
// all gone, and carries out what the finalizers foregroundDeletion and orphan
// ask for.
//
// In: the metadata of all objects of all kinds that can be deleted, custom ones
// too; kinds come and go while it runs. Out: deletions, and patches of owner
// references and of those two finalizers.
//
// There is no graph of its own to keep right: each kind's cache has an
// index by owner, which gives an object's dependents, and an owner is looked up
// in its kind's cache. The caches only raise suspicion. Before anything is
// deleted, the object and each of its owners are read from the API itself, and
// the deletion names the version that was read. Where an owner can't be told to
// be gone for certain (its kind is unknown, the server answers with anything
// but "no such object"), nothing is deleted and the question is asked again.
package garbage
