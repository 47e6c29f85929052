package records

import (
	"flag"
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

var update = flag.Bool("update", false, "rewrite the records in testdata")

// TestStories reads Services and slices as users write them and compares all
// records that come of them. DNS-01, DNS-02, DNS-03, DNS-04
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) { tell(t, file) })
	}
}

func tell(t *testing.T, file string) {
	story, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var service *catalog.Service
	var from []*catalog.Slice
	for i := range story.Files {
		f := &story.Files[i]
		switch {
		case f.Name == "service.yaml":
			var svc corev1.Service
			read(t, f, &svc)
			service = catalog.FromService(&svc)
		case strings.HasPrefix(f.Name, "slice"):
			var es discoveryv1.EndpointSlice
			read(t, f, &es)
			es.Namespace = service.Name.Namespace
			es.Labels = map[string]string{discoveryv1.LabelServiceName: service.Name.Name}
			from = append(from, catalog.FromSlice(&es))
		case f.Name == "records":
			got := lines(OfService(zoneName(t), service, from))
			if *update {
				f.Data = []byte(got)
			} else if got != string(f.Data) {
				t.Errorf("got\n%s\nwant\n%s", got, f.Data)
			}
		}
	}
	if *update {
		if err := os.WriteFile(file, txtar.Format(story), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, f *txtar.File, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(f.Data, into); err != nil {
		t.Fatalf("%s: %v", f.Name, err)
	}
}

func zoneName(t testing.TB) Name {
	t.Helper()
	zone, err := ParseName("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func lines(owners []Owner) string {
	var b strings.Builder
	for _, o := range owners {
		b.WriteString(o.String() + "\n")
	}
	return b.String()
}
