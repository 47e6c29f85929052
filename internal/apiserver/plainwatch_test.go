package apiserver_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
)

// openWatch is a watch as a client without a library sees it.
func openWatch(t *testing.T, client *http.Client, s *apitest.Server, path, accept string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+strings.TrimPrefix(s.Config.Host, "https://")+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func newClient(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// version is the newest of a namespace's Services.
func version(t *testing.T, s *apitest.Server) string {
	t.Helper()
	list, err := s.Kube.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	return list.ResourceVersion
}

func annotate(t *testing.T, s *apitest.Server, namespace, name, value string) *corev1.Service {
	t.Helper()
	svc, err := s.Kube.CoreV1().Services(namespace).Patch(t.Context(), name, types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{"n":%q}}}`, value), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

func createService(t *testing.T, s *apitest.Server, namespace, name string) {
	t.Helper()
	if _, err := s.Kube.CoreV1().Services(namespace).Create(t.Context(), namedService(name), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Plain watches are answered as by the library, byte for byte, in each form and scope, from
// changes before they began to the end of their time. (API-09)
func TestPlainWatchesAnswerAsTheLibraryDoes(t *testing.T) {
	s := start(t)
	makeNamespace(t, s, "other")
	createService(t, s, "default", "old")
	for seconds := 3; ; seconds *= 3 {
		began := time.Now()
		pairs := watchInPairs(t, s, seconds)
		// The two of a pair don't begin at once. Where they end, or get the bookmark of two
		// seconds before, while there are still writes, each may have seen other ones: a slow
		// machine does all again with more time.
		if took := time.Since(began); took < time.Duration(seconds-2)*time.Second {
			for _, p := range pairs {
				p.compare(t)
			}
			return
		} else if seconds > 60 {
			t.Fatalf("watches of %d s were opened and written to in %v", seconds, took)
		}
	}
}

// watchPair is a plain watch and one of the same that the library answers.
type watchPair struct {
	what             string
	plain, want      *http.Response
	isPlain, asPlain bool // asPlain is what it should be
}

func (p *watchPair) compare(t *testing.T) {
	t.Helper()
	if p.isPlain != p.asPlain {
		t.Errorf("%s: plain is %v, want %v", p.what, p.isPlain, p.asPlain)
	}
	var read sync.WaitGroup
	var got, want []byte
	read.Go(func() { got, _ = io.ReadAll(p.plain.Body) })
	read.Go(func() { want, _ = io.ReadAll(p.want.Body) })
	read.Wait()
	if p.plain.StatusCode != p.want.StatusCode || !bytes.Equal(got, want) {
		t.Errorf("%s: got %d %q\nwant %d %q", p.what, p.plain.StatusCode, got, p.want.StatusCode, want)
	}
	for _, h := range []http.Header{p.plain.Header, p.want.Header} {
		h.Del("Audit-Id")
		h.Del("Date")
	}
	if !apiequality.Semantic.DeepEqual(p.plain.Header, p.want.Header) {
		t.Errorf("%s: header %v, want %v", p.what, p.plain.Header, p.want.Header)
	}
}

// watchInPairs opens watches that last so long, and writes what they see.
func watchInPairs(t *testing.T, s *apitest.Server, seconds int) []*watchPair {
	t.Helper()
	client := newClient(t, s.Config)
	from := version(t, s)
	annotate(t, s, "default", "old", fmt.Sprint("before ", seconds))
	awaitCached(t, s, "old")
	var pairs []*watchPair
	open := func(path, accept string, plain bool) {
		before := s.PlainWatches()
		p := &watchPair{what: path + " " + accept, plain: openWatch(t, client, s, path, accept), asPlain: plain}
		p.isPlain = s.PlainWatches() == before+1
		// A query that means nothing is the library's.
		p.want = openWatch(t, client, s, path+"&pretty=", accept)
		if s.PlainWatches() > before+1 {
			t.Error("an unknown query was answered as plain")
		}
		pairs = append(pairs, p)
	}
	const protobuf = "application/vnd.kubernetes.protobuf,application/json"
	timeout := fmt.Sprint("&timeoutSeconds=", seconds)
	services := "/services?watch=1" + timeout + "&resourceVersion="
	for _, accept := range []string{"", "application/json", protobuf} {
		for _, scope := range []string{"/api/v1", "/api/v1/namespaces/default", "/api/v1/namespaces/none"} {
			open(scope+services+from, accept, true)
			open(scope+services+from+"&fieldSelector=metadata.name%3Dnew", accept, true)
		}
		open("/apis/networking.k8s.io/v1/ingressclasses?watch=true"+timeout+"&allowWatchBookmarks=false&resourceVersion="+from, accept, true)
	}
	for _, special := range []string{
		"&labelSelector=app%3Dweb", "&fieldSelector=spec.type%3DClusterIP", "&fieldSelector=metadata.name!%3Dold",
		"&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "&fieldSelector=none%3D1", "&timeoutSeconds=1",
	} {
		open("/api/v1/namespaces/default"+services+from+special, "", false)
	}
	open("/api/v1"+services+"1", "", false) // too old: an event says so
	open("/api/v1"+services+"0", "", false)
	open("/api/v1"+services, "", false)
	open("/api/v1"+services+"x", "", false)
	open("/api/v1"+services+"999999999", "", true) // nothing comes
	open("/apis/networking.k8s.io/v1/networkpolicies?watch=1"+timeout+"&resourceVersion=999999999", "", false)
	open("/api/v1"+services+from, "application/json;as=Table;v=v1;g=meta.k8s.io", false)
	open("/api/v1/watch"+services+from, "", false)

	for _, namespace := range []string{"default", "other"} {
		createService(t, s, namespace, "new")
		annotate(t, s, namespace, "new", "1")
	}
	annotate(t, s, "default", "old", "after")
	for _, namespace := range []string{"default", "other"} {
		if err := s.Kube.CoreV1().Services(namespace).Delete(t.Context(), "new", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ask(t, s, "POST", "/apis/networking.k8s.io/v1/ingressclasses", `{"apiVersion":"networking.k8s.io/v1","kind":"IngressClass","metadata":{"name":"new"},"spec":{"controller":"example.com/new"}}`).want(t, 201)
	ask(t, s, "DELETE", "/apis/networking.k8s.io/v1/ingressclasses/new", "").want(t, 200)
	return pairs
}

// event is one of a watch in JSON.
type event struct {
	Type   string
	Object struct {
		Metadata struct{ Name, ResourceVersion string }
	}
}

// next reads an event.
func next(t *testing.T, from *bufio.Reader) (event, error) {
	t.Helper()
	line, err := from.ReadBytes('\n')
	if err != nil {
		return event{}, err
	}
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return e, nil
}

// A watch that begins at a version which another watch has passed sees what came after it,
// once and in order; and a bookmark before its time is up. (API-09)
func TestPlainWatchesResume(t *testing.T) {
	s := start(t)
	createService(t, s, "default", "web")
	from := version(t, s)
	client := newClient(t, s.Config)
	const path = "/api/v1/namespaces/default/services?watch=1&resourceVersion="
	first := bufio.NewReader(openWatch(t, client, s, path+from, "").Body)
	var versions []string
	for n := range 10 {
		versions = append(versions, annotate(t, s, "default", "web", fmt.Sprint(n)).ResourceVersion)
	}
	check := func(reader *bufio.Reader, want []string) {
		t.Helper()
		for _, version := range want {
			if e, err := next(t, reader); err != nil || e.Type != "MODIFIED" || e.Object.Metadata.ResourceVersion != version {
				t.Fatalf("got %+v, %v, want version %s", e, err, version)
			}
		}
	}
	check(first, versions)
	var ending []*bufio.Reader
	for n, version := range versions[:2] { // one more is as good as all
		before := s.PlainWatches()
		resumed := bufio.NewReader(openWatch(t, client, s, path+version+"&timeoutSeconds=5", "").Body)
		if s.PlainWatches() != before+1 {
			t.Errorf("a watch from version %s on isn't plain", version)
		}
		check(resumed, versions[n+1:])
		ending = append(ending, resumed)
	}
	for _, resumed := range ending {
		if e, err := next(t, resumed); err != io.EOF {
			t.Errorf("got %+v, %v, want the end", e, err)
		}
	}
	// Of another namespace nothing is seen, but how far it is.
	makeNamespace(t, s, "other")
	createService(t, s, "other", "web")
	last := annotate(t, s, "other", "web", "x").ResourceVersion
	resumed := bufio.NewReader(openWatch(t, client, s, path+versions[9]+"&timeoutSeconds=5&allowWatchBookmarks=true", "").Body)
	if e, err := next(t, resumed); err != nil || e.Type != "BOOKMARK" || e.Object.Metadata.ResourceVersion != last {
		t.Errorf("got %+v, %v, want a bookmark at %s", e, err, last)
	}
	if e, err := next(t, resumed); err != io.EOF {
		t.Errorf("got %+v, %v, want the end", e, err)
	}
}

// Who watches must have the right to; and the server's end ends the answers.
func TestPlainWatchesAskForRightsAndEnd(t *testing.T) {
	s := start(t)
	createService(t, s, "default", "web")
	path := "/api/v1/namespaces/default/services?watch=1&resourceVersion=" + version(t, s)
	as := rest.AnonymousClientConfig(s.Config)
	as.BearerToken = readerToken(t, s)
	if resp := openWatch(t, newClient(t, as), s, path, ""); resp.StatusCode != http.StatusForbidden || s.PlainWatches() != 0 {
		t.Errorf("without rights: %d", resp.StatusCode)
	}
	client := newClient(t, s.Config)
	var bodies []io.Reader
	for range 20 {
		bodies = append(bodies, openWatch(t, client, s, path, "").Body)
	}
	if got := s.PlainWatches(); got != 20 {
		t.Errorf("%d watches are plain", got)
	}
	begin := time.Now()
	s.Stop()
	for _, body := range bodies {
		if rest, err := io.ReadAll(body); err != nil || len(rest) > 0 {
			t.Errorf("got %q, %v, want an end", rest, err)
		}
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the end took %v", took)
	}
}
