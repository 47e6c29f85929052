package catalog

import "k8s.io/apimachinery/pkg/types"

// View is one Service as it is now, with all its slices of both families.
type View struct {
	Name    types.NamespacedName
	Service *Service // nil: deleted
	Slices  []*Slice // in no order that means anything
}
