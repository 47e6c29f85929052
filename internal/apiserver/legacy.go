package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"portico.dev/portico/internal/core/catalog"
)

// The fields of a Service's spec that manifests for Kubernetes 1.16 to 1.21 may
// carry and today's types have lost (API-03).
const (
	legacyFamily = "ipFamily"
	legacyKeys   = "topologyKeys"
)

// mentionsLegacy reports whether a body can have one of the fields: most have none,
// and aren't looked at.
func mentionsLegacy(body []byte) bool {
	family := []byte(legacyFamily)
	return bytes.Contains(body, []byte(legacyKeys)) ||
		// ipFamilyPolicy begins with the same letters.
		bytes.Count(body, family) > bytes.Count(body, append(family, "Policy"...))
}

// translation turns the legacy fields of one body into today's. It changes nothing
// else: fields that are unknown or written twice are still there for the handler to
// report (API-12).
type translation struct {
	form     bodyForm
	warnings []string
	errs     field.ErrorList
}

// invalid is the answer to a body that can't be translated.
func (t *translation) invalid() *apierrors.StatusError {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), "", t.errs)
}

func (t *translation) warn(format string, args ...any) {
	t.warnings = append(t.warnings, fmt.Sprintf(format, args...))
}

// translate gives the new body, if it differs. The body must be valid JSON.
func (t *translation) translate(body []byte) (fresh []byte, changed bool) {
	if t.form == jsonPatchForm {
		return t.patch(body)
	}
	top, ok := parseMembers(body)
	if !ok {
		return nil, false
	}
	spec, ok := parseMembers(top.get("spec"))
	if !ok {
		return nil, false
	}
	family, keys := spec.get(legacyFamily), spec.get(legacyKeys)
	if family != nil {
		spec = t.family(spec.without(legacyFamily), family)
	}
	if keys != nil {
		spec = spec.without(legacyKeys)
		if top, ok = t.keys(top, keys); !ok {
			return nil, false
		}
	}
	if family == nil && keys == nil {
		return nil, false
	}
	return top.set("spec", spec.bytes()).bytes(), true
}

// family says with today's fields what ipFamily said: this family and no other. They
// win where a manifest has both.
func (t *translation) family(spec members, value json.RawMessage) members {
	if isNull(value) || string(value) == `""` {
		t.warn("spec.%s is a legacy field; use spec.ipFamilies", legacyFamily)
		return spec
	}
	if given := spec.get("ipFamilies"); given != nil && !isNull(given) {
		t.warn("spec.%s is a legacy field and is ignored, because spec.ipFamilies is set", legacyFamily)
		return spec
	}
	spec = spec.set("ipFamilies", slices.Concat([]byte("["), value, []byte("]")))
	if given := spec.get("ipFamilyPolicy"); given == nil || isNull(given) {
		spec = spec.set("ipFamilyPolicy", json.RawMessage(`"`+corev1.IPFamilyPolicySingleStack+`"`))
	}
	t.warn("spec.%s is a legacy field; it was read as spec.ipFamilies: [%s] with spec.ipFamilyPolicy: SingleStack: use these", legacyFamily, value)
	return spec
}

// keys moves topologyKeys into the annotation that the routing reads. It reports
// false where metadata isn't what it should be, which the handler will say.
func (t *translation) keys(top members, value json.RawMessage) (members, bool) {
	joined, ok := t.join(value)
	if !ok {
		return top, true
	}
	t.warn("spec.%s is a legacy field; it was read as the annotation %s: use that, or spec.trafficDistribution", legacyKeys, catalog.TopologyKeysAnnotation)
	metadata, ok1 := parseMembers(orEmpty(top.get("metadata")))
	annotations, ok2 := parseMembers(orEmpty(metadata.get("annotations")))
	if !ok1 || !ok2 {
		return top, false
	}
	annotation := json.RawMessage("null")
	switch {
	case annotations.get(catalog.TopologyKeysAnnotation) != nil:
		return top, true // today's form wins where a manifest has both
	case joined != "":
		annotation, _ = json.Marshal(joined) // a string always has a form
	case t.form != mergeForm: // an object has nothing to remove
		return top, true
	}
	annotations = annotations.set(catalog.TopologyKeysAnnotation, annotation)
	return top.set("metadata", metadata.set("annotations", annotations.bytes()).bytes()), true
}

// join makes the annotation's value of the list, "" of none. That the keys are in
// order and well formed is checked with the rest of the Service; here only what the
// joined form couldn't show.
func (t *translation) join(value json.RawMessage) (string, bool) {
	path := field.NewPath("spec", legacyKeys)
	if isNull(value) {
		return "", true
	}
	var keys []string
	if json.Unmarshal(value, &keys) != nil {
		t.errs = append(t.errs, field.Invalid(path, string(value), "must be a list of label keys, the last of which may be \"*\""))
		return "", false
	}
	for i, key := range keys {
		switch {
		case key == "":
			t.errs = append(t.errs, field.Required(path.Index(i), ""))
		case strings.Contains(key, ","):
			t.errs = append(t.errs, field.Invalid(path.Index(i), key, "must be a label key or \"*\""))
		}
	}
	return strings.Join(keys, ","), len(t.errs) == 0
}

// patch translates the operations of a JSON patch (RFC 6902) on the fields.
func (t *translation) patch(body []byte) ([]byte, bool) {
	var ops []json.RawMessage
	if json.Unmarshal(body, &ops) != nil {
		return nil, false
	}
	var out []json.RawMessage
	changed := false
	for _, op := range ops {
		fresh, ok := t.operation(op)
		changed = changed || ok
		if !ok {
			fresh = []json.RawMessage{op}
		}
		out = append(out, fresh...)
	}
	if !changed {
		return nil, false
	}
	if out == nil {
		return []byte("[]"), true
	}
	fresh, err := json.Marshal(out)
	return fresh, err == nil
}

// operation translates one operation; ok tells whether it is about a legacy field.
func (t *translation) operation(raw json.RawMessage) (fresh []json.RawMessage, ok bool) {
	var op struct{ Op, Path, From string }
	if json.Unmarshal(raw, &op) != nil {
		return nil, false
	}
	const family, keys = "/spec/" + legacyFamily, "/spec/" + legacyKeys
	at := func(path string) bool {
		return op.Path == path || op.From == path || strings.HasPrefix(op.Path, path+"/") || strings.HasPrefix(op.From, path+"/")
	}
	switch {
	case at(keys):
		// The operation that adds an annotation fails on a Service that has none, and
		// no operation adds the map only where it is missing.
		t.errs = append(t.errs, field.Forbidden(field.NewPath("spec", legacyKeys),
			fmt.Sprintf("a JSON patch can't change this legacy field; change the annotation %s, by a merge patch if the Service has no annotations", catalog.TopologyKeysAnnotation)))
		return nil, true
	case !at(family):
		return nil, false
	}
	members, isObject := parseMembers(raw)
	value := members.get("value")
	switch {
	case !isObject || op.Path != family || op.Op != "remove" && value == nil:
	case op.Op == "add" || op.Op == "replace":
		t.warn("spec.%s is a legacy field; it was read as spec.ipFamilies: [%s] with spec.ipFamilyPolicy: SingleStack: use these", legacyFamily, value)
		return []json.RawMessage{
			slices.Concat([]byte(`{"op":"add","path":"/spec/ipFamilies","value":[`), value, []byte("]}")),
			json.RawMessage(`{"op":"add","path":"/spec/ipFamilyPolicy","value":"SingleStack"}`),
		}, true
	case op.Op == "test":
		t.warn("spec.%s is a legacy field; it was read as spec.ipFamilies[0]: use that", legacyFamily)
		return []json.RawMessage{members.set("path", json.RawMessage(`"/spec/ipFamilies/0"`)).bytes()}, true
	case op.Op == "remove":
		t.warn("spec.%s is a legacy field; use spec.ipFamilies", legacyFamily)
		return nil, true
	}
	t.errs = append(t.errs, field.Forbidden(field.NewPath("spec", legacyFamily), "a JSON patch can only add, replace, remove or test this legacy field; use spec.ipFamilies"))
	return nil, true
}
