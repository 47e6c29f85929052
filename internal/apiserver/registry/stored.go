package registry

import (
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// scope of a kind.
const (
	InNamespace = true
	InCluster   = false
)

// objectOf is the pointer to a type of the API.
type objectOf[T any] interface {
	*T
	runtime.Object
}

// Stored is a kind with the rules that hold for every object, and no others.
func Stored[T, L any, PT objectOf[T], PL objectOf[L]](gv schema.GroupVersion, plural, singular string, namespaced bool, short ...string) Kind[PT] {
	return Kind[PT]{
		GroupVersion: gv, Plural: plural, Singular: singular, Namespaced: namespaced, Short: short,
		NewObject: func() PT { return new(T) },
		NewList:   func() runtime.Object { return PL(new(L)) },
		Rules: Rules[PT]{
			Validate:       func(obj PT) field.ErrorList { return validateStored(obj, namespaced) },
			ValidateUpdate: func(obj, old PT) field.ErrorList { return validateStoredUpdate(obj, old) },
		},
	}
}

func validateStored(obj runtime.Object, namespaced bool) field.ErrorList {
	m, err := meta.Accessor(obj)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return validation.ValidateObjectMetaAccessor(m, namespaced, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
}

func validateStoredUpdate(obj, old runtime.Object) field.ErrorList {
	m, err := meta.Accessor(obj)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	was, err := meta.Accessor(old)
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	return validation.ValidateObjectMetaAccessorUpdate(m, was, field.NewPath("metadata"))
}

// Checked adds checks to a kind, of a new object and of a changed one alike.
func (k Kind[T]) Checked(check func(obj T) field.ErrorList) Kind[T] {
	create, update := k.Rules.Validate, k.Rules.ValidateUpdate
	k.Rules.Validate = func(obj T) field.ErrorList { return append(create(obj), check(obj)...) }
	k.Rules.ValidateUpdate = func(obj, old T) field.ErrorList { return append(update(obj, old), check(obj)...) }
	return k
}

// Fixed adds checks of what may not change.
func (k Kind[T]) Fixed(check func(obj, old T) field.ErrorList) Kind[T] {
	update := k.Rules.ValidateUpdate
	k.Rules.ValidateUpdate = func(obj, old T) field.ErrorList { return append(update(obj, old), check(obj, old)...) }
	return k
}

// Printed says what `kubectl get` shows between name and age.
func (k Kind[T]) Printed(row func(T) []any, columns ...metav1.TableColumnDefinition) Kind[T] {
	k.Table = Table[T]{Columns: columns, Row: row}
	return k
}

// Warned answers every create with a Warning.
func (k Kind[T]) Warned(text string) Kind[T] {
	k.Rules.Warnings = func(_, old T) []string {
		if any(old) != any(*new(T)) {
			return nil
		}
		return []string{text}
	}
	return k
}
