package machine

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Verdict says what happens to a field that a manifest sets.
type Verdict string

const (
	// Honoured: the field does what the KubeVirt API says.
	Honoured Verdict = "honoured"
	// Warned: the field is accepted, has no effect, and a Warning says so. Only
	// for what changes neither the guest nor its data.
	Warned Verdict = "warning"
	// Refused: 422 with the field's path, because ignoring the field would change
	// the guest or lose data.
	Refused Verdict = "refused"
)

// Rule is one line of the support table.
type Rule struct {
	// Field is the path from the spec as in YAML, without list indices. "*" as
	// the last element stands for the keys of a map that have no rule of their own.
	Field string
	// Verdict holds for this field and all below it that have no rule of their own.
	Verdict Verdict
	// Values are scalar values that say what Portico does anyway; they pass
	// whatever the verdict is.
	Values []string
	// Note explains: what happens instead, and what to do.
	Note string
}

// support is a table of rules, ready for look-ups.
type support struct {
	rules map[string]Rule
	inner map[string]bool // the paths that have rules below them
}

func newSupport(rules []Rule) support {
	s := support{rules: make(map[string]Rule, len(rules)), inner: map[string]bool{"": true}}
	for _, r := range rules {
		s.rules[r.Field] = r
		for i, c := range r.Field {
			if c == '.' {
				s.inner[r.Field[:i]] = true
			}
		}
	}
	return s
}

// finding is a field that is set and not (fully) honoured.
type finding struct {
	path *field.Path
	rule Rule
}

func (f finding) forbidden() *field.Error {
	return field.Forbidden(f.path, "Portico doesn't honour this field: "+f.rule.Note)
}

func (f finding) warning() string {
	return fmt.Sprintf("%s: no effect: %s", f.path, f.rule.Note)
}

// split sorts findings into errors and warnings.
func split(findings []finding) (field.ErrorList, []string) {
	var errs field.ErrorList
	var warnings []string
	for _, f := range findings {
		if f.rule.Verdict == Warned {
			warnings = append(warnings, f.warning())
		} else {
			errs = append(errs, f.forbidden())
		}
	}
	return errs, warnings
}

// check walks everything that spec (a struct) sets and finds what isn't honoured.
func (s support) check(root *field.Path, spec any) []finding {
	return s.walk(nil, root, "", reflect.ValueOf(spec))
}

func (s support) walk(found []finding, path *field.Path, name string, v reflect.Value) []finding {
	if !isSet(v) {
		return found
	}
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	rule, has := s.rules[name]
	switch {
	case has && rule.Verdict != Honoured:
		if isScalar(v) && slices.Contains(rule.Values, fmt.Sprint(v.Interface())) {
			return found
		}
		return append(found, finding{path, rule})
	case has && !s.inner[name]:
		return found
	case !has && !s.inner[name]:
		return append(found, finding{path, Rule{Field: name, Verdict: Refused, Note: "it is newer than this version; leave it out"}})
	}
	switch v.Kind() {
	case reflect.Struct:
		for _, f := range jsonFields(v.Type()) {
			found = s.walk(found, path.Child(f.name), join(name, f.name), v.FieldByIndex(f.index))
		}
	case reflect.Slice:
		for i := range v.Len() {
			found = s.walkItem(found, path.Index(i), name, v.Index(i))
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			child := join(name, k.String())
			if _, known := s.rules[child]; !known {
				child = join(name, "*")
			}
			found = s.walk(found, path.Key(k.String()), child, v.MapIndex(k))
		}
	}
	return found
}

// walkItem descends into one element of a list, whose path is the list's.
func (s support) walkItem(found []finding, path *field.Path, name string, v reflect.Value) []finding {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.Struct {
		return found
	}
	for _, f := range jsonFields(v.Type()) {
		found = s.walk(found, path.Child(f.name), join(name, f.name), v.FieldByIndex(f.index))
	}
	return found
}

func join(name, child string) string {
	if name == "" {
		return child
	}
	return name + "." + child
}

// isSet tells a value that a manifest wrote from one it left out, as far as the
// Go types keep the difference: a pointer to false is set, a plain false isn't.
func isSet(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() > 0
	default:
		return !v.IsZero()
	}
}

var marshaler = reflect.TypeFor[json.Marshaler]()

// isScalar says whether a type has no fields of its own in JSON.
func isScalar(v reflect.Value) bool { return scalarType(v.Type()) }

func scalarType(t reflect.Type) bool {
	if t.Implements(marshaler) || reflect.PointerTo(t).Implements(marshaler) {
		return true // Quantity, IntOrString, Time
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice, reflect.Pointer:
		return false
	default:
		return true
	}
}

type jsonField struct {
	name  string
	index []int
	typ   reflect.Type
}

// jsonFields lists a struct's fields by their names in JSON, those of inlined
// structs among them.
func jsonFields(t reflect.Type) []jsonField {
	var out []jsonField
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" && (f.Anonymous || strings.Contains(options, "inline")) {
			inlined := f.Type
			if inlined.Kind() == reflect.Pointer {
				inlined = inlined.Elem()
			}
			for _, sub := range jsonFields(inlined) {
				sub.index = append([]int{i}, sub.index...)
				out = append(out, sub)
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		out = append(out, jsonField{name, []int{i}, f.Type})
	}
	return out
}
