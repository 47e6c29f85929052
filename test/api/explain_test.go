package api

import (
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// explained are the kinds whose every field scripts may ask for.
var explained = map[string]runtime.Object{"service": &corev1.Service{}}

// explainAll asks `kubectl explain` for each field of a kind that `explain --recursive`
// lists, and wants a description of each; and it wants every field of the Go type to be
// listed. What stands under metadata is asked for in long runs only.
func explainAll(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || explained[args[0]] == nil {
		ts.Fatalf("usage: explain KIND")
	}
	ts.Check(ts.Exec("kubectl", "explain", args[0], "--recursive"))
	listed := explainedPaths(ts.ReadFile("stdout"))
	for _, path := range fieldPaths(reflect.TypeOf(explained[args[0]]).Elem(), "") {
		if !slices.Contains(listed, path) {
			ts.Fatalf("kubectl explain %s --recursive doesn't list %s, but only\n%s", args[0], path, strings.Join(listed, "\n"))
		}
	}
	for _, path := range listed {
		if strings.HasPrefix(path, "metadata.") && os.Getenv("PORTICO_LONG") == "" {
			continue // every kind has it
		}
		ts.Check(ts.Exec("kubectl", "explain", args[0]+"."+path))
		out := ts.ReadFile("stdout")
		_, description, found := strings.Cut(out, "DESCRIPTION:\n")
		if !found || strings.HasPrefix(strings.TrimSpace(description), "<empty>") || len(strings.TrimSpace(description)) == 0 {
			ts.Fatalf("%s.%s has no description:\n%s", args[0], path, out)
		}
	}
}

// explainedPaths reads the tree that `explain --recursive` prints: the depth of a field
// is its indentation, and a tab ends its name.
func explainedPaths(out string) []string {
	_, tree, _ := strings.Cut(out, "FIELDS:\n")
	type parent struct {
		indent int
		path   string
	}
	var paths []string
	var above []parent
	for line := range strings.Lines(tree) {
		name, _, isField := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		text := strings.TrimLeft(name, " ")
		if !isField || text == "" {
			continue // an enum's values, or what follows the tree
		}
		indent := len(name) - len(text)
		for len(above) > 0 && above[len(above)-1].indent >= indent {
			above = above[:len(above)-1]
		}
		path := text
		if len(above) > 0 {
			path = above[len(above)-1].path + "." + text
		}
		above = append(above, parent{indent, path})
		paths = append(paths, path)
	}
	return paths
}

// leaves are types that the API writes as one value.
var leaves = []reflect.Type{
	reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.FieldsV1](), reflect.TypeFor[intstr.IntOrString](),
}

// fieldPaths are the JSON paths of a type's fields.
func fieldPaths(t reflect.Type, under string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || slices.Contains(leaves, t) {
		return nil
	}
	var paths []string
	for f := range t.Fields() {
		switch name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name {
		case "": // inlined
			paths = append(paths, fieldPaths(f.Type, under)...)
		default:
			paths = append(append(paths, under+name), fieldPaths(f.Type, under+name+".")...)
		}
	}
	return paths
}
