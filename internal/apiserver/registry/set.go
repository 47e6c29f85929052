package registry

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Set collects the REST storage of each group.
type Set map[schema.GroupVersion]map[string]rest.Storage

// Put collects one storage.
func (s Set) Put(gv schema.GroupVersion, resource string, storage rest.Storage) {
	if s[gv] == nil {
		s[gv] = map[string]rest.Storage{}
	}
	s[gv][resource] = storage
}

// Add builds a kind's storage, with its status, and collects it.
func Add[T runtime.Object](s Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter, k Kind[T]) (*Storage, *StatusStorage, error) {
	main, status, err := newStorage(scheme, options, k)
	if err != nil {
		return nil, nil, err
	}
	s.Put(k.GroupVersion, k.Plural, main)
	if status != nil {
		s.Put(k.GroupVersion, k.Plural+"/status", status)
	}
	return main, status, nil
}
