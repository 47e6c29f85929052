package apiserver_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// OPS-01: both groups show the same events, each under its names.
func TestEventsHaveTwoViews(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := context.Background()
	old, newer := s.Kube.CoreV1().Events("default"), s.Kube.EventsV1().Events("default")
	ref := corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web", UID: "u1", APIVersion: "v1"}
	if _, err := old.Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "one"}, InvolvedObject: ref, Reason: "Started", Message: "it runs", Type: "Normal",
		Source: corev1.EventSource{Component: "node"}, FirstTimestamp: metav1.Now(), LastTimestamp: metav1.Now(), Count: 3,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := newer.Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "two"}, Regarding: ref, Reason: "Stopped", Note: "it rests", Type: "Warning", Action: "Stop",
		EventTime: metav1.NowMicro(), ReportingController: "portico.dev/node", ReportingInstance: "node-a",
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	one, err := newer.Get(ctx, "one", metav1.GetOptions{})
	if err != nil || one.Note != "it runs" || one.Regarding != ref || one.DeprecatedCount != 3 || one.DeprecatedSource.Component != "node" {
		t.Errorf("got %v, %+v", err, one)
	}
	two, err := old.Get(ctx, "two", metav1.GetOptions{})
	if err != nil || two.Message != "it rests" || two.InvolvedObject != ref || two.ReportingController != "portico.dev/node" {
		t.Errorf("got %v, %+v", err, two)
	}
	for selector, want := range map[string]int{"involvedObject.uid=u1": 2, "involvedObject.name=web,type=Warning": 1, "source=node": 1, "reason=Odd": 0} {
		if list, err := old.List(ctx, metav1.ListOptions{FieldSelector: selector}); err != nil || len(list.Items) != want {
			t.Errorf("core, %s: got %v, %v; want %d", selector, list, err, want)
		}
	}
	for selector, want := range map[string]int{"regarding.uid=u1": 2, "regarding.apiVersion=v1,type=Warning": 1, "reportingController=portico.dev/node": 1, "reason=Odd": 0} {
		if list, err := newer.List(ctx, metav1.ListOptions{FieldSelector: selector}); err != nil || len(list.Items) != want {
			t.Errorf("events.k8s.io, %s: got %v, %v; want %d", selector, list, err, want)
		}
	}
	w, err := newer.Watch(ctx, metav1.ListOptions{ResourceVersion: two.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := old.Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if ev := <-w.ResultChan(); ev.Type != watch.Deleted || ev.Object.(*eventsv1.Event).Name != "one" {
		t.Errorf("got %v", ev)
	}
}

// API-09: a watch resumes after the revision it is given, hears of progress, and is
// told when that revision is too old.
func TestWatchResumes(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := context.Background()
	maps := s.Kube.CoreV1().ConfigMaps("default")
	make := func(name string) *corev1.ConfigMap {
		t.Helper()
		cm, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return cm
	}
	first := make("a")
	make("b")
	make("c")
	names := func(w watch.Interface, n int) (list []string) {
		t.Helper()
		defer w.Stop()
		deadline := time.After(30 * time.Second)
		for len(list) < n {
			select {
			case ev := <-w.ResultChan():
				if ev.Type == watch.Bookmark {
					list = append(list, "bookmark")
				} else if cm, ok := ev.Object.(*corev1.ConfigMap); ok {
					list = append(list, cm.Name)
				} else {
					t.Fatalf("got %v", ev)
				}
			case <-deadline:
				t.Fatalf("only %v after 30 s", list)
			}
		}
		return list
	}
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(w, 2); got[0] != "b" || got[1] != "c" {
		t.Errorf("resumed: got %v", got)
	}
	yes := true
	w, err = maps.Watch(ctx, metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		t.Fatal(err)
	}
	if got := names(w, 4); got[3] != "bookmark" {
		t.Errorf("a streamed list: got %v", got)
	}
	// Pages of one state: what is made between them isn't in it.
	page, err := maps.List(ctx, metav1.ListOptions{Limit: 2})
	if err != nil || len(page.Items) != 2 || page.Continue == "" || *page.RemainingItemCount != 1 {
		t.Fatalf("got %v, %+v", err, page.ListMeta)
	}
	make("d")
	page, err = maps.List(ctx, metav1.ListOptions{Limit: 2, Continue: page.Continue})
	if err != nil || len(page.Items) != 1 || page.Items[0].Name != "c" {
		t.Errorf("second page: %v, %+v", err, page)
	}
	// An open watch doesn't keep the server from stopping.
	if w, err = maps.Watch(ctx, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.Stop()
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("stopped after %v", took)
	}
	for range w.ResultChan() { // closed, as the server is gone
	}
}

// What upstream does with the Endpoints of a Service: a Warning with each request
// (EP-04), and they go with their Service.
func TestEndpointsOfAService(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := context.Background()
	const deprecated = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
	path := "/api/v1/namespaces/default/endpoints"
	ask(t, s, "POST", path, `{"metadata":{"name":"web"},"subsets":[{"addresses":[{"ip":"192.0.2.1"}],"ports":[{"port":80}]}]}`).want(t, 201, deprecated)
	ask(t, s, "GET", path, "").want(t, 200, deprecated)
	ask(t, s, "GET", path+"/absent", "").want(t, 404, deprecated)
	ask(t, s, "POST", path, `{"metadata":{"name":"lo"},"subsets":[{"addresses":[{"ip":"127.0.0.1"}],"ports":[{"port":80}]}]}`).
		want(t, 422, "subsets[0].addresses[0].ip", "may not be in the loopback range")
	services := "/api/v1/namespaces/default/services"
	for _, remove := range []string{services + "/web", services} { // one by one, and as a collection
		ask(t, s, "PUT", path+"/web", `{"metadata":{"name":"web"},"subsets":[{"addresses":[{"ip":"192.0.2.1"}],"ports":[{"port":80}]}]}`)
		ask(t, s, "POST", services, `{"metadata":{"name":"web"},"spec":{"ports":[{"port":80}]}}`).want(t, 201)
		ask(t, s, "DELETE", remove+"?dryRun=All", "").want(t, 200)
		ask(t, s, "GET", path+"/web", "").want(t, 200)
		ask(t, s, "DELETE", remove, "").want(t, 200)
		ask(t, s, "GET", path+"/web", "").want(t, 404)
	}
	// API-05: ports as some manuals print them.
	ask(t, s, "POST", services, `{"metadata":{"name":"map"},"spec":{"ports": {"port":80}}}`).
		want(t, 400, "cannot be handled as a Service: json: cannot unmarshal", `spec.ports is a list: put "- " before its first key`)
	if _, err := s.Kube.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"fd00::1"}}},
	}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an IPv6 endpoint in an IPv4 slice: got %v", err)
	}
}
