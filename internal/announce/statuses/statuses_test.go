package statuses

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/announcing"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// world is an API server that has the kinds.
type world struct {
	*testing.T
	client dynamic.Interface
}

func begin(t *testing.T) *world {
	server := apitest.Start(t)
	client, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := metallb.Install(t.Context(), client, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	w := &world{t, client}
	for _, resource := range []schema.GroupVersionResource{metallb.ServiceL2Statuses, metallb.ServiceBGPStatuses, metallb.ConfigurationStates} {
		apitest.Eventually(t, resource.Resource+" is served", func() error {
			_, err := w.objects(resource).List(t.Context(), metav1.ListOptions{})
			return err
		})
	}
	return w
}

func (w *world) objects(resource schema.GroupVersionResource) dynamic.ResourceInterface {
	return w.client.Resource(resource).Namespace(core.Namespace)
}

// run runs a Writer until the returned function or the test's end.
func (w *world) run(node string, resource schema.GroupVersionResource) (writer *Writer, stop func()) {
	writer = NewWriter(node, resource, w.client, slog.New(slog.DiscardHandler))
	writer.last = 30 * time.Second // this API is there, but may be slow
	return writer, apitest.Run(w, writer.Run)
}

// has waits until the objects of a kind say these things.
func (w *world) has(resource schema.GroupVersionResource, want ...string) {
	w.Helper()
	apitest.Eventually(w, resource.Resource, func() error {
		list, err := w.objects(resource).List(w.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var got []string
		for i := range list.Items {
			got = append(got, describe(&list.Items[i]))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("they say\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return nil
	})
}

// describe leaves out times and the names that are sums.
func describe(o *unstructured.Unstructured) string {
	status, _, _ := unstructured.NestedMap(o.Object, "status")
	for _, c := range asSlice(status["conditions"]) {
		delete(c.(map[string]any), "lastTransitionTime")
	}
	texts := []string{}
	for _, k := range slices.Sorted(maps.Keys(status)) {
		texts = append(texts, fmt.Sprint(status[k]))
	}
	return strings.Join(texts, " ")
}

func asSlice(v any) []any {
	s, _ := v.([]any)
	return s
}

func svc(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "default", Name: name}
}

// LB-07: objects say what a node announces, follow it, come back when somebody removes
// them, and those of an earlier run go; other nodes' stay. What a stopping agent says last
// is written.
func TestWriter(t *testing.T) {
	t.Parallel()
	w := begin(t)
	b, stopB := w.run("node-b", metallb.ServiceBGPStatuses)
	b.Set([]metav1.Object{BGP("node-b", svc("web"), []string{"router"})})
	a, stop := w.run("node-a", metallb.ServiceBGPStatuses)
	a.Set([]metav1.Object{BGP("node-a", svc("web"), []string{"router", "other"}), BGP("node-a", svc("api"), []string{"router"})})
	w.has(metallb.ServiceBGPStatuses, "node-a [router other] web default", "node-a [router] api default", "node-b [router] web default")
	a.Set([]metav1.Object{BGP("node-a", svc("web"), []string{"router"}), BGP("node-a", svc("api"), []string{"router"})})
	w.has(metallb.ServiceBGPStatuses, "node-a [router] api default", "node-a [router] web default", "node-b [router] web default")
	stop()

	a, _ = w.run("node-a", metallb.ServiceBGPStatuses) // a restart
	a.Set([]metav1.Object{BGP("node-a", svc("web"), []string{"router"})})
	w.has(metallb.ServiceBGPStatuses, "node-a [router] web default", "node-b [router] web default")
	b.Set(nil)
	stopB()
	w.has(metallb.ServiceBGPStatuses, "node-a [router] web default")
}

// LB-07: an object that somebody has removed is written again when the objects are looked for.
func TestWriterLooksAgain(t *testing.T) {
	t.Parallel()
	w := begin(t)
	writer := NewWriter("node-a", metallb.ServiceL2Statuses, w.client, slog.New(slog.DiscardHandler))
	object := Layer2("node-a", svc("web"), []string{"eth0", "eth1"})
	writer.Set([]metav1.Object{object})
	<-writer.wake
	sync := func() {
		t.Helper()
		writer.known = false
		apitest.Eventually(t, "write", func() error { return writer.sync(t.Context()) })
	}
	sync()
	w.has(metallb.ServiceL2Statuses, "[map[name:eth0] map[name:eth1]] node-a web default")
	if err := metallb.Delete(t.Context(), w.client, metallb.ServiceL2Statuses, object.Name); err != nil {
		t.Fatal(err)
	}
	sync()
	w.has(metallb.ServiceL2Statuses, "[map[name:eth0] map[name:eth1]] node-a web default")
}

// LB-07: a node says what of the configuration it can't do, in the kind that MetalLB's
// tools look at; a name of any length is one label.
func TestState(t *testing.T) {
	t.Parallel()
	w := begin(t)
	long := "node." + strings.Repeat("a", 60)
	writer, _ := w.run(long, metallb.ConfigurationStates)
	since := metav1.NewTime(time.Unix(1_000_000, 0))
	writer.Set([]metav1.Object{State(long, nil, since)})
	w.has(metallb.ConfigurationStates, "[map[message: reason:SyncStateSuccess status:True type:configReconcilerValid]] Valid")
	faults := []announcing.Fault{{Kind: "BGPPeer", Name: "r", Field: "spec.peerAddress", Problem: "is missing"}, {Kind: "Community", Name: "c", Field: "spec", Problem: "?"}}
	writer.Set([]metav1.Object{State(long, faults, since)})
	const said = "BGPPeer r: spec.peerAddress: is missing\nCommunity c: spec: ?"
	w.has(metallb.ConfigurationStates, "[map[message:"+said+" reason:ConfigurationError status:False type:configReconcilerValid]] "+said+" Invalid")
	list, err := w.objects(metallb.ConfigurationStates).List(t.Context(), metav1.ListOptions{LabelSelector: "metallb.io/component-type=speaker,metallb.io/node-name=" + core.LabelValue(long)})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("found by its labels: %v, %v", list, err)
	}
}
