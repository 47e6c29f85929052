// Package story runs tests that are told as files: objects go in as users write them,
// and what comes out stands behind them, as text for people. go test -update rewrites
// the outcomes.
//
// In: txtar archives and a function from one to its outcomes. Out: failures, or with
// -update other files. It knows nothing of what is told.
package story

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite the outcomes of the stories in testdata")

// Tell gives the outcomes of a story by the names of the files that hold them. A
// name that the story lacks is none of its matters.
type Tell func(t *testing.T, files []txtar.File) map[string]string

// Run tells each story of a folder, in a test of the story's name.
func Run(t *testing.T, folder string, tell Tell) {
	paths, err := filepath.Glob(filepath.Join(folder, "*.txtar"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no stories in %s: %v", folder, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { one(t, path, tell) })
	}
}

func one(t *testing.T, path string, tell Tell) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	outcomes := tell(t, archive.Files)
	found := false
	for i := range archive.Files {
		f := &archive.Files[i]
		got, ok := outcomes[f.Name]
		switch {
		case !ok:
			continue
		case *update:
			f.Data = []byte(got)
		case got != string(f.Data):
			t.Errorf("%s: got\n%s\nwant\n%s", f.Name, got, f.Data)
		}
		found = true
	}
	if !found {
		t.Fatalf("%s has no outcome: name one of %v", path, outcomes)
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Read decodes a file of YAML. Unknown fields are an error: a misspelt one would
// prove nothing.
func Read(t *testing.T, f txtar.File, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(f.Data, into); err != nil {
		t.Fatalf("%s: %v", f.Name, err)
	}
}
