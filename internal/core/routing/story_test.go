package routing

import (
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"

	"portico.dev/portico/internal/core/catalog"
)

var update = flag.Bool("update", false, "rewrite the frontends of testdata/*.txtar")

// TestStories reads objects as users write them and compares the whole decision.
// Each story names the behaviours it proves in its first line.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { story(t, file) })
	}
}

func story(t *testing.T, file string) {
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	node, svc, slices, want := &catalog.Node{}, (*catalog.Service)(nil), []*catalog.Slice(nil), -1
	for i, f := range ar.Files {
		switch name, _, _ := strings.Cut(f.Name, "."); {
		case name == "node":
			n := &corev1.Node{}
			parse(t, f, n)
			node = catalog.FromNode(n)
		case name == "service":
			s := &corev1.Service{}
			parse(t, f, s)
			s.Namespace = "default"
			svc = catalog.FromService(s)
		case strings.HasPrefix(name, "slice"):
			es := &discoveryv1.EndpointSlice{}
			parse(t, f, es)
			es.Namespace, es.Name = "default", name
			es.Labels = map[string]string{discoveryv1.LabelServiceName: svc.Name.Name}
			slices = append(slices, catalog.FromSlice(es))
		case name == "frontends":
			want = i
		default:
			t.Fatalf("%s: don't know file %s", file, f.Name)
		}
	}
	got := Format(Compute(node, svc, slices))
	if *update {
		ar.Files[want].Data = []byte(got)
		if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if w := string(ar.Files[want].Data); got != w {
		t.Errorf("got:\n%s\nwant:\n%s", got, w)
	}
	for range 5 { // the order of slices and endpoints means nothing
		shuffle(slices)
		if again := Format(Compute(node, svc, slices)); again != got {
			t.Fatalf("another order gave another result:\n%s\nfirst:\n%s", again, got)
		}
	}
}

func shuffle(slices []*catalog.Slice) {
	rand.Shuffle(len(slices), func(i, j int) { slices[i], slices[j] = slices[j], slices[i] })
	for _, s := range slices {
		rand.Shuffle(len(s.Endpoints), func(i, j int) { s.Endpoints[i], s.Endpoints[j] = s.Endpoints[j], s.Endpoints[i] })
	}
}

func parse(t *testing.T, f txtar.File, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(f.Data, into); err != nil {
		t.Fatalf("%s: %v", f.Name, err)
	}
}
