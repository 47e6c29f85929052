package garbage

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestDecide(t *testing.T) {
	const p, a, w = ownerPresent, ownerAbsent, ownerWaiting
	for _, c := range []struct {
		name       string
		owners     []ownerState
		dependents bool
		finalizer  string
		keep       int
		policy     metav1.DeletionPropagation
	}{
		{name: "no owners"},
		{name: "owner is there", owners: []ownerState{p}},
		{name: "owner is gone", owners: []ownerState{a}, policy: "Background"},
		{name: "all are gone", owners: []ownerState{a, a}, policy: "Background"},
		{name: "one is left", owners: []ownerState{a, p}, keep: 1},
		{name: "one is left, another waits", owners: []ownerState{w, p, p}, keep: 2},
		{name: "owner waits for us", owners: []ownerState{w}, policy: "Background"},
		{name: "owner waits for us and ours", owners: []ownerState{w}, dependents: true, policy: "Foreground"},
		{name: "gone, with dependents", owners: []ownerState{a}, dependents: true, policy: "Background"},
		{name: "asked to orphan", owners: []ownerState{a}, dependents: true, finalizer: "orphan", policy: "Orphan"},
		{name: "asked for foreground", owners: []ownerState{a}, finalizer: "foregroundDeletion", policy: "Foreground"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &object{}
			for i := range c.owners {
				o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{UID: types.UID(rune('a' + i))})
			}
			if c.finalizer != "" {
				o.Finalizers = []string{c.finalizer}
			}
			v := decide(o, c.owners, c.dependents)
			if len(v.keep) != c.keep || v.policy != c.policy {
				t.Errorf("keep %d, policy %q; want %d, %q", len(v.keep), v.policy, c.keep, c.policy)
			}
		})
	}
}
