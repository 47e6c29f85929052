package apiserver

import (
	"fmt"
	"reflect"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// checkedSerializers refuse what protobuf can say and JSON can't: an IntOrString that
// is neither. The library panics where it meets one later.
type checkedSerializers struct {
	runtime.NegotiatedSerializer
	infos []runtime.SerializerInfo
}

func newCheckedSerializers(all runtime.NegotiatedSerializer) checkedSerializers {
	infos := slices.Clone(all.SupportedMediaTypes())
	holders := &holders{}
	for i := range infos {
		if infos[i].MediaType == runtime.ContentTypeProtobuf {
			infos[i].Serializer = checkedSerializer{infos[i].Serializer, holders}
			infos[i].StrictSerializer = checkedSerializer{infos[i].StrictSerializer, holders}
		}
	}
	return checkedSerializers{all, infos}
}

func (s checkedSerializers) SupportedMediaTypes() []runtime.SerializerInfo { return s.infos }

type checkedSerializer struct {
	runtime.Serializer
	holders *holders
}

func (s checkedSerializer) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	obj, gvk, err := s.Serializer.Decode(data, defaults, into)
	if err != nil || obj == nil {
		return obj, gvk, err
	}
	if err := s.holders.check(reflect.ValueOf(obj)); err != nil {
		return nil, gvk, err
	}
	return obj, gvk, nil
}

// holders knows which types can hold an IntOrString, so that a check doesn't look into
// the others.
type holders struct{ known sync.Map } // reflect.Type -> bool

var intOrString = reflect.TypeFor[intstr.IntOrString]()

// check finds an IntOrString of an impossible type in v.
func (h *holders) check(v reflect.Value) error {
	if !h.holds(v.Type()) {
		return nil
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return h.check(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			if err := h.check(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Struct:
		if v.Type() == intOrString {
			if t := v.Interface().(intstr.IntOrString).Type; t != intstr.Int && t != intstr.String {
				return fmt.Errorf("an IntOrString is of type %d, which is neither Int (%d) nor String (%d)", t, intstr.Int, intstr.String)
			}
			return nil
		}
		for i := range v.NumField() {
			if err := h.check(v.Field(i)); err != nil {
				return fmt.Errorf("%s: %w", v.Type().Field(i).Name, err)
			}
		}
	}
	return nil
}

// holds reports whether a value of the type can hold an IntOrString.
func (h *holders) holds(t reflect.Type) bool {
	if known, ok := h.known.Load(t); ok {
		return known.(bool)
	}
	found := holdsIntOrString(t, map[reflect.Type]bool{})
	h.known.Store(t, found)
	return found
}

// holdsIntOrString looks at every type below t but those it has seen: some hold
// themselves. Maps are left out, as none of the API's has an IntOrString as its value.
func holdsIntOrString(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == intOrString {
		return true
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return holdsIntOrString(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if holdsIntOrString(t.Field(i).Type, seen) {
				return true
			}
		}
	}
	return false
}
