package resources

import (
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
)

func list(gv string, names ...string) *metav1.APIResourceList {
	out := &metav1.APIResourceList{GroupVersion: gv}
	for _, n := range names {
		kind := strings.ToUpper(n[:1]) + strings.TrimSuffix(n[1:], "s")
		out.APIResources = append(out.APIResources, metav1.APIResource{Name: n, Kind: kind, Namespaced: n != "nodes", Verbs: metav1.Verbs{"list"}})
	}
	return out
}

func TestDiscover(t *testing.T) {
	f := &clienttesting.Fake{Resources: []*metav1.APIResourceList{
		list("v1", "pods", "pods/status", "nodes"),
		list("example.org/v1", "things"),
		list("example.org/v1alpha1", "things", "toys"),
	}}
	s, err := Discover(t.Context(), &fake.FakeDiscovery{Fake: f})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range s.Preferred {
		got = append(got, r.GroupVersion().String()+" "+r.Resource)
	}
	want := "v1 nodes, v1 pods, example.org/v1 things, example.org/v1alpha1 toys"
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	for _, c := range []struct {
		apiVersion, kind, want string
	}{
		{"v1", "Pod", "v1 pods"},
		{"example.org/v1alpha1", "Thing", "example.org/v1alpha1 things"},
		{"example.org/v0", "Thing", "example.org/v1 things"}, // a version of the past
		{"example.org/v1", "Toy", "example.org/v1alpha1 toys"},
		{"other.org/v1", "Thing", ""},
		{"v1", "Unknown", ""},
	} {
		got := ""
		if r, ok := s.ForKind(schema.FromAPIVersionAndKind(c.apiVersion, c.kind)); ok {
			got = r.GroupVersion().String() + " " + r.Resource
		}
		if got != c.want {
			t.Errorf("%s %s is %q, want %q", c.apiVersion, c.kind, got, c.want)
		}
	}
}

// What can't be read is unknown, not absent.
func TestDiscoverPartly(t *testing.T) {
	f := &clienttesting.Fake{Resources: []*metav1.APIResourceList{list("v1", "pods"), list("broken.org/v1", "things")}}
	f.PrependReactor("get", "resource", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("down")
	})
	s, err := Discover(t.Context(), &fake.FakeDiscovery{Fake: f})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Failed()) != 2 || !s.FailedGroup("broken.org") || !s.FailedGroup("") || s.FailedGroup("other.org") {
		t.Errorf("failed: %v", s.Failed())
	}
}
