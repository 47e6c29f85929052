package machine

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

var update = flag.Bool("update", false, "rewrite docs/vm-fields.md")

const fieldsPage = "../../../docs/vm-fields.md"

// Every field of the API has a rule, and every rule is about a field that
// exists: a new version of kubevirt.io/api forces a decision.
func TestRulesCoverTheAPI(t *testing.T) {
	for _, table := range []struct {
		name  string
		rules []Rule
		spec  reflect.Type
	}{
		{"machine", MachineRules(), reflect.TypeFor[kubevirtv1.VirtualMachineSpec]()},
		{"instance", InstanceRules(), reflect.TypeFor[kubevirtv1.VirtualMachineInstanceSpec]()},
	} {
		t.Run(table.name, func(t *testing.T) {
			seen := map[string]bool{}
			uncovered := coverage(newSupport(table.rules), table.spec, "", seen)
			for _, path := range uncovered {
				t.Errorf("no rule covers %s", path)
			}
			for _, r := range table.rules {
				if !seen[r.Field] {
					t.Errorf("the rule for %s is about no field, or is listed twice", r.Field)
				}
				delete(seen, r.Field)
				if r.Verdict != Honoured && r.Note == "" {
					t.Errorf("%s: a field without effect needs a note with the remedy", r.Field)
				}
			}
		})
	}
}

func coverage(s support, typ reflect.Type, path string, seen map[string]bool) (uncovered []string) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	_, has := s.rules[path]
	if has {
		seen[path] = true
	}
	if !s.inner[path] {
		if has {
			return nil
		}
		return []string{path}
	}
	switch {
	case typ.Kind() == reflect.Map:
		for name := range s.rules {
			if rest, ok := strings.CutPrefix(name, path+"."); ok && !strings.Contains(rest, ".") {
				seen[name] = true
			}
		}
	case typ.Kind() == reflect.Struct && !scalarType(typ):
		for _, f := range jsonFields(typ) {
			uncovered = append(uncovered, coverage(s, f.typ, join(path, f.name), seen)...)
		}
	default:
		return []string{path + " (a scalar with rules below it)"}
	}
	return uncovered
}

// docs/vm-fields.md is this table: go test ./internal/core/machine -run FieldsPage -update
func TestFieldsPage(t *testing.T) {
	want := fieldsDoc()
	if *update {
		if err := os.WriteFile(fieldsPage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(fieldsPage)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the table says; run: go test ./internal/core/machine -run FieldsPage -update", fieldsPage)
	}
}

func fieldsDoc() string {
	var b strings.Builder
	b.WriteString(`<!-- Generated from internal/core/machine/support*.go. Don't edit: go test ./internal/core/machine -run FieldsPage -update -->

# Which fields of a VirtualMachine Portico honours

The API is kubevirt.io/v1, and all its fields can be read and explained. What a manifest sets is either *honoured*, or
answered with a *warning* because it has no effect on the guest, or *refused* with status 422 and the field's path,
because ignoring it would change the guest or lose data. Nothing is dropped in silence. A field stands for all below
it that have no line of their own; values named in brackets pass, because they are what Portico does anyway.

`)
	section := func(title string, rules []Rule) {
		fmt.Fprintf(&b, "## %s\n\n| field | | what it means here |\n|---|---|---|\n", title)
		for _, r := range rules {
			verdict := string(r.Verdict)
			if len(r.Values) > 0 {
				verdict += " (not: " + strings.Join(r.Values, ", ") + ")"
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", r.Field, verdict, r.Note)
		}
		b.WriteString("\n")
	}
	section("spec of a VirtualMachine", MachineRules())
	section("spec of a VirtualMachineInstance, and spec.template.spec of a VirtualMachine", InstanceRules())
	return strings.TrimSuffix(b.String(), "\n")
}
