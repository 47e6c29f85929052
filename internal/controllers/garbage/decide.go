package garbage

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type ownerState int

const (
	ownerPresent ownerState = iota
	ownerAbsent
	// ownerWaiting: it is being deleted and waits for its dependents to go first.
	ownerWaiting
)

// verdict: at most one of the two is set.
type verdict struct {
	keep   []metav1.OwnerReference    // the references to keep, when some are to go
	policy metav1.DeletionPropagation // delete the object so
}

// decide is what to do with an object that isn't being deleted, given the state
// of each of its owners. One owner that stays keeps the object, and references
// to the others are dropped, so that they neither are waited for nor asked about
// again.
func decide(o *object, owners []ownerState, hasDependents bool) verdict {
	if slices.Contains(owners, ownerPresent) {
		var keep []metav1.OwnerReference
		for i, ref := range o.OwnerReferences {
			if owners[i] == ownerPresent {
				keep = append(keep, ref)
			}
		}
		if len(keep) == len(owners) {
			return verdict{}
		}
		return verdict{keep: keep}
	}
	switch {
	case len(owners) == 0:
		return verdict{}
	case slices.Contains(owners, ownerWaiting) && hasDependents:
		// The owner asked for "dependents first", and that goes all the way down.
		return verdict{policy: metav1.DeletePropagationForeground}
	case slices.Contains(o.Finalizers, metav1.FinalizerOrphanDependents):
		return verdict{policy: metav1.DeletePropagationOrphan}
	case slices.Contains(o.Finalizers, metav1.FinalizerDeleteDependents):
		return verdict{policy: metav1.DeletePropagationForeground}
	}
	return verdict{policy: metav1.DeletePropagationBackground}
}
