package records

import (
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/test/story"
)

// TestStories reads Services and slices as users write them and compares all
// records that come of them. DNS-01, DNS-02, DNS-03, DNS-04
func TestStories(t *testing.T) { story.Run(t, "testdata", tell) }

func tell(t *testing.T, files []txtar.File) map[string]string {
	var service *catalog.Service
	var from []*catalog.Slice
	for _, f := range files {
		switch {
		case f.Name == "service.yaml":
			var svc corev1.Service
			story.Read(t, f, &svc)
			service = catalog.FromService(&svc)
		case strings.HasPrefix(f.Name, "slice"):
			var es discoveryv1.EndpointSlice
			story.Read(t, f, &es)
			es.Namespace = service.Name.Namespace
			es.Labels = map[string]string{discoveryv1.LabelServiceName: service.Name.Name}
			from = append(from, catalog.FromSlice(&es))
		}
	}
	return map[string]string{"records": lines(OfService(zoneName(t), service, from))}
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
