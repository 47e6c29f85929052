package apiserver_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"portico.dev/portico/internal/apiserver/apitest"
)

// API-09: lists of all namespaces, by labels and fields, whole and in chunks.
func TestServiceLists(t *testing.T) {
	t.Parallel()
	s := start(t)
	makeNamespace(t, s, "other")
	ctx := context.Background()
	for i := range 6 {
		namespace, spec := []string{"default", "other"}[i%2], `{"ports":[{"port":80}]}`
		if i == 5 {
			spec = `{"type":"NodePort","clusterIP":"10.96.0.55","ports":[{"port":80}]}`
		}
		ask(t, s, "POST", "/api/v1/namespaces/"+namespace+"/services",
			fmt.Sprintf(`{"metadata":{"name":"s%d","labels":{"n":"%d","odd":"%t"}},"spec":%s}`, i, i, i%2 == 1, spec)).want(t, 201)
	}
	for _, tc := range []struct{ path, query, want string }{
		{"/api/v1/services", "", "s0 s1 s2 s3 s4 s5"},
		{servicesPath, "", "s0 s2 s4"},
		{"/api/v1/services", "labelSelector=odd=true", "s1 s3 s5"},
		{"/api/v1/services", "labelSelector=n in (1,2),odd!=true", "s2"},
		{"/api/v1/services", "labelSelector=!n", ""},
		{"/api/v1/services", "fieldSelector=spec.type=NodePort", "s5"},
		{"/api/v1/services", "fieldSelector=spec.clusterIP=10.96.0.55", "s5"},
		{"/api/v1/services", "fieldSelector=metadata.namespace=other,metadata.name!=s1", "s3 s5"},
		{servicesPath, "fieldSelector=metadata.name=s2", "s2"},
		{"/api/v1/services", "labelSelector=odd=true&fieldSelector=spec.type!=NodePort&resourceVersion=0", "s1 s3"},
		{"/api/v1/services", "limit=2", "s0 s1 s2 s3 s4 s5"},
	} {
		query, err := url.ParseQuery(tc.query)
		if err != nil {
			t.Fatal(err)
		}
		if got := sorted(listAll(t, s, tc.path, query)); got != tc.want {
			t.Errorf("%s?%s: %q, want %q", tc.path, tc.query, got, tc.want)
		}
	}
	for query, want := range map[string]string{
		"fieldSelector=spec.port=1": "field label not supported", "labelSelector=a=b=c": "expected: ',' or 'end of string'",
		"continue=xyz": "continue key is not valid", "limit=x": "", "limit=2&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ": "continue key is not valid",
		"resourceVersion=x": "resourceVersion", "resourceVersionMatch=Exact": "resourceVersionMatch",
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if got := ask(t, s, "GET", servicesPath+"?"+q.Encode(), ""); got.code != 400 && got.code != 422 || !strings.Contains(got.body, want) {
			t.Errorf("%s: %d %s", query, got.code, got.body)
		}
	}

	// A list that is older than the store remembers: 410 with a token that goes on
	// from there, though in another state.
	page, err := s.Kube.CoreV1().Services("").List(ctx, metav1.ListOptions{Limit: 2})
	if err != nil {
		t.Fatal(err)
	}
	compact(t, s)
	s = apitest.StartOn(t, s) // without the snapshots that the first has of its past
	_, err = s.Kube.CoreV1().Services("").List(ctx, metav1.ListOptions{Limit: 2, Continue: page.Continue})
	var status apierrors.APIStatus
	if !apierrors.IsResourceExpired(err) {
		t.Fatalf("an expired token: %v", err)
	}
	status = err.(apierrors.APIStatus)
	if page, err = s.Kube.CoreV1().Services("").List(ctx, metav1.ListOptions{Continue: status.Status().ListMeta.Continue}); err != nil || len(page.Items) != 4 {
		t.Errorf("the token of the 410: %v, %v", page, err)
	}
}

func sorted(names []string) string {
	slices.Sort(names)
	return strings.Join(names, " ")
}

// listAll gives the names of a list, chunk by chunk where the query limits it.
func listAll(t *testing.T, s *apitest.Server, path string, query url.Values) []string {
	t.Helper()
	var names []string
	for {
		var list corev1.ServiceList
		decodeInto(t, ask(t, s, "GET", path+"?"+query.Encode(), "").want(t, 200), &list)
		for _, svc := range list.Items {
			names = append(names, svc.Name)
		}
		if list.Continue == "" {
			return names
		}
		query.Set("continue", list.Continue)
	}
}

// compact makes the store forget all but the present.
func compact(t *testing.T, s *apitest.Server) {
	t.Helper()
	c, err := s.Store.Client()
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	got, err := c.KV.Put(ctx, "/compact", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.Compact(ctx, got.Header.Revision); err != nil {
		t.Fatal(err)
	}
}

// API-09: a watch tells each change once, in order, and one that goes on from a
// resourceVersion misses none.
func TestServiceWatch(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := context.Background()
	services := s.Kube.CoreV1().Services("default")
	create := func(name string) *corev1.Service {
		svc, err := services.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"a": "b"}}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return svc
	}
	first := create("first")
	create("second")
	from := func(version string, options metav1.ListOptions) watch.Interface {
		options.ResourceVersion = version
		w, err := services.Watch(ctx, options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	w := from(first.ResourceVersion, metav1.ListOptions{LabelSelector: "a=b"})
	if _, err := services.Patch(ctx, "first", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"c"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := services.Delete(ctx, "second", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// What leaves the selector is deleted to its watcher.
	for _, want := range []string{"ADDED second", "DELETED first", "DELETED second"} {
		e := <-w.ResultChan()
		svc, ok := e.Object.(*corev1.Service)
		if !ok || string(e.Type)+" "+svc.Name != want {
			t.Fatalf("got %v %v, want %s", e.Type, e.Object, want)
		}
	}
	// Bookmarks: one ends the first part of a streamed list, and says from where to go on.
	yes := true
	w = from("", metav1.ListOptions{SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	var bookmark string
	for e := range w.ResultChan() {
		if e.Type == watch.Bookmark {
			bookmark = e.Object.(*corev1.Service).ResourceVersion
			break
		}
	}
	third := create("third")
	if e := <-from(bookmark, metav1.ListOptions{}).ResultChan(); e.Type != watch.Added || e.Object.(*corev1.Service).ResourceVersion != third.ResourceVersion {
		t.Errorf("after the bookmark: %v", e)
	}
	// A watch lasts as long as its client asks.
	began := time.Now()
	ask(t, s, "GET", servicesPath+"?watch=true&timeoutSeconds=1", "").want(t, 200)
	if took := time.Since(began); took < time.Second {
		t.Errorf("a watch of one second took %v", took)
	}
	// A version that nobody remembers is 410 Gone, so that the client lists anew.
	compact(t, s)
	w = from("1", metav1.ListOptions{})
	if e := <-w.ResultChan(); e.Type != watch.Error || e.Object.(*metav1.Status).Code != 410 {
		t.Errorf("an old version: %v", e)
	}
}

// API-09: what is written, how, and on what condition; a dry run takes nothing.
func TestServiceVerbs(t *testing.T) {
	t.Parallel()
	s := start(t)
	const spec = `"spec":{"type":"NodePort","selector":{"a":"b"},"ports":[{"name":"a","port":80}]}`
	generated := serviceOf(t, ask(t, s, "POST", servicesPath, `{"metadata":{"generateName":"web-"},`+spec+`}`).want(t, 201))
	if !strings.HasPrefix(generated.Name, "web-") || len(generated.Name) != len("web-")+5 {
		t.Errorf("generated name %q", generated.Name)
	}
	svc := serviceOf(t, ask(t, s, "POST", servicesPath, `{"metadata":{"name":"web"},`+spec+`}`).want(t, 201))
	at := servicesPath + "/web"
	ask(t, s, "POST", servicesPath, `{"metadata":{"name":"web"},`+spec+`}`).want(t, 409, "AlreadyExists")
	ask(t, s, "POST", servicesPath, `{"metadata":{"name":"web","resourceVersion":"5"},`+spec+`}`).want(t, 400, "resourceVersion should not be set on objects to be created")
	ask(t, s, "PUT", servicesPath+"/absent", `{"metadata":{"name":"absent"},`+spec+`}`).want(t, 404)
	ask(t, s, "PUT", at, `{"metadata":{"name":"another"},`+spec+`}`).want(t, 400, "does not match the name on the URL")
	ask(t, s, "PUT", at, `{"metadata":{"name":"web","namespace":"elsewhere"},`+spec+`}`).want(t, 400, "does not match the namespace")
	ask(t, s, "PUT", at, `{"metadata":{"name":"web","uid":"00000000-0000-0000-0000-000000000000"},`+spec+`}`).want(t, 409, "Precondition failed: UID in precondition")
	checkClaims(t, s, svc, generated)

	// Dry runs: of each verb, with the answer that the write would have.
	dry := "?dryRun=All"
	got := serviceOf(t, ask(t, s, "POST", servicesPath+dry, `{"metadata":{"name":"dry"},`+spec+`}`).want(t, 201))
	if got.Spec.ClusterIP == "" || got.Spec.Ports[0].NodePort == 0 {
		t.Errorf("a dry run shows no choice: %+v", got.Spec)
	}
	taken := fmt.Sprintf(`{"metadata":{"name":"dry"},"spec":{"clusterIP":%q,"ports":[{"port":80}]}}`, svc.Spec.ClusterIP)
	ask(t, s, "POST", servicesPath+dry, taken).want(t, 422, "spec.clusterIPs: Invalid value", "provided IP is already allocated")
	ask(t, s, "POST", servicesPath+dry, `{"metadata":{"name":"dry"},"spec":{"ports":[]}}`).want(t, 422)
	askAs(t, s, "PATCH", at+dry, mergePatch, `{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`).want(t, 200, "fd00:10:96::")
	ask(t, s, "PUT", at+dry, `{"metadata":{"name":"web"},"spec":{"type":"LoadBalancer","externalTrafficPolicy":"Local","ports":[{"port":80}]}}`).want(t, 200, `"healthCheckNodePort":3`)
	askAs(t, s, "PATCH", servicesPath+"/dry"+dry+"&fieldManager=test", applyPatch, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"dry"},`+spec+`}`).want(t, 201)
	ask(t, s, "DELETE", at+dry, "").want(t, 200)
	ask(t, s, "DELETE", servicesPath+dry, "").want(t, 200)
	ask(t, s, "GET", servicesPath+"/dry", "").want(t, 404)
	if now := serviceOf(t, ask(t, s, "GET", at, "").want(t, 200)); now.ResourceVersion != svc.ResourceVersion {
		t.Error("a dry run wrote")
	}
	checkClaims(t, s, svc, generated)

	// Updates on a condition, or without one.
	stale := strings.Replace(asJSON(t, svc), `"resourceVersion":"`+svc.ResourceVersion+`"`, `"resourceVersion":"1"`, 1)
	ask(t, s, "PUT", at, stale).want(t, 409, "the object has been modified; please apply your changes to the latest version and try again")
	askAs(t, s, "PATCH", at, mergePatch, `{"metadata":{"resourceVersion":"1"},"spec":{"sessionAffinity":"ClientIP"}}`).want(t, 409)
	ask(t, s, "PUT", at, `{"metadata":{"name":"web"},`+spec+`}`).want(t, 200)
	ask(t, s, "DELETE", at, `{"preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}`).want(t, 409)

	// A finalizer keeps the Service and what it holds until it is taken off.
	askAs(t, s, "PATCH", at, mergePatch, `{"metadata":{"finalizers":["example.org/wait"]}}`).want(t, 200)
	ask(t, s, "DELETE", at, "").want(t, 200)
	waiting := serviceOf(t, ask(t, s, "GET", at, "").want(t, 200, "deletionTimestamp"))
	checkClaims(t, s, waiting, generated)
	askAs(t, s, "PATCH", at, mergePatch, `{"metadata":{"finalizers":["example.org/another","example.org/wait"]}}`).want(t, 422, "no new finalizers can be added if the object is being deleted")
	askAs(t, s, "PATCH", at, mergePatch, `{"metadata":{"finalizers":null}}`).want(t, 200)
	ask(t, s, "GET", at, "").want(t, 404)
	checkClaims(t, s, generated)

	// A collection, by label; the rest, and what it held, stays.
	for _, name := range []string{"one", "two"} {
		ask(t, s, "POST", servicesPath, `{"metadata":{"name":"`+name+`","labels":{"x":"y"}},`+spec+`}`).want(t, 201)
	}
	ask(t, s, "DELETE", servicesPath+"?labelSelector=x%3Dy", "").want(t, 200)
	checkClaims(t, s, generated)
}

// API-09: the three forms of patch, and server-side apply with its conflicts.
func TestServicePatches(t *testing.T) {
	t.Parallel()
	s := start(t)
	at := servicesPath + "/web"
	ask(t, s, "POST", servicesPath, `{"metadata":{"name":"web"},"spec":{"ports":[{"name":"a","port":80},{"name":"b","port":81}]}}`).want(t, 201)
	for _, tc := range []struct {
		form, body string
		code       int
		want       string
	}{
		{strategicPatch, `{"spec":{"ports":[{"port":80,"targetPort":8080}]}}`, 200, `"port":80,"targetPort":8080},{"name":"b"`}, // merged by port
		{strategicPatch, `{"spec":{"ports":[{"$patch":"delete","port":81}]}}`, 200, `"ports":[{"name":"a","protocol":"TCP","port":80,"targetPort":8080}]`},
		{strategicPatch, `{"spec":{"sessionAffinity":"ClientIP"}}`, 200, `"timeoutSeconds":10800`},
		{mergePatch, `{"spec":{"ports":[{"port":90}]}}`, 200, `"ports":[{"protocol":"TCP","port":90,"targetPort":90}]`},
		{jsonPatch, `[{"op":"test","path":"/spec/ports/0/port","value":90},{"op":"add","path":"/spec/ports/0/name","value":"c"}]`, 200, `"name":"c"`},
		{jsonPatch, `[{"op":"test","path":"/spec/ports/0/port","value":91}]`, 422, ""},
		{jsonPatch, `[{"op":"replace","path":"/spec/nothing/0","value":1}]`, 422, ""},
		{jsonPatch, `{"op":"remove"}`, 400, ""},
		{strategicPatch, `{"spec":`, 400, ""},
		{mergePatch, `{"spec":{"portz":1}}`, 200, `unknown field "spec.portz"`},
		{"application/xml", `<a/>`, 415, ""},
		{mergePatch, `{"metadata":{"name":"other"}}`, 400, ""},
	} {
		askAs(t, s, "PATCH", at, tc.form, tc.body).want(t, tc.code, tc.want)
	}
	askAs(t, s, "PATCH", at+strict, mergePatch, `{"spec":{"portz":1}}`).want(t, 422, `unknown field "spec.portz"`)
	askAs(t, s, "PATCH", servicesPath+"/absent", mergePatch, `{}`).want(t, 404)

	apply := func(manager, query, spec string) answer {
		return askAs(t, s, "PATCH", servicesPath+"/ssa?fieldManager="+manager+query, applyPatch, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"ssa"},"spec":`+spec+`}`)
	}
	apply("one", "", `{"selector":{"a":"b"},"ports":[{"port":80}]}`).want(t, 201)
	apply("two", "", `{"selector":{"a":"c"}}`).want(t, 409, `conflict with "one"`, ".spec.selector")
	apply("two", "&force=true", `{"selector":{"a":"c"}}`).want(t, 200, `"selector":{"a":"c"}`)
	apply("one", "", `{"ports":[{"port":80}]}`).want(t, 200, `"selector":{"a":"c"}`) // two has it now
	apply("two", "", `{}`).want(t, 200)
	if got := serviceOf(t, ask(t, s, "GET", servicesPath+"/ssa", "")); got.Spec.Selector != nil || got.Spec.ClusterIP == "" {
		t.Errorf("what nobody applies any more: %+v", got.Spec)
	}
	askAs(t, s, "PATCH", servicesPath+"/ssa", applyPatch, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"ssa"}}`).want(t, 422, "fieldManager")
	apply("one", "", `{"portz":[]}`).want(t, 400, ".spec.portz: field not declared in schema")
}
