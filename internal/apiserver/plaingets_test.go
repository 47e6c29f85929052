package apiserver_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/etcd"
)

// A get sees every write that was acknowledged before it, whoever wrote and through
// whichever server; also when the watch caches are behind. (API-09)
func TestGetsSeeWritesBeforeThem(t *testing.T) {
	first := start(t)
	second := apitest.StartOn(t, first)
	ctx := t.Context()
	var group sync.WaitGroup
	for worker := range 4 {
		group.Go(func() {
			name := fmt.Sprint("seen-", worker)
			servers := []*apitest.Server{first, second}
			if _, err := first.Kube.CoreV1().Services("default").Create(ctx, namedService(name), metav1.CreateOptions{}); err != nil {
				t.Error(err)
				return
			}
			for n := range 50 {
				patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"n":"%d"}}}`, n)
				svc, err := servers[n%2].Kube.CoreV1().Services("default").Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				for i, s := range servers {
					got, err := s.Kube.CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{})
					if err != nil || got.ResourceVersion != svc.ResourceVersion || got.Annotations["n"] != fmt.Sprint(n) {
						t.Errorf("server %d after write %d: version %s, want %s; %v", i, n, got.ResourceVersion, svc.ResourceVersion, err)
						return
					}
				}
			}
			if err := second.Kube.CoreV1().Services("default").Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			if got, err := first.Kube.CoreV1().Services("default").Get(ctx, name, metav1.GetOptions{}); err == nil {
				t.Errorf("%s was deleted and is there: %+v", name, got)
			}
		})
	}
	group.Wait()
}

// rawGet is what a client without a library sees, header and all.
func rawGet(t *testing.T, config *rest.Config, path string, header http.Header) (int, http.Header, []byte) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+strings.TrimPrefix(config.Host, "https://")+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, body.Bytes()
}

// Plain gets are answered as by the whole chain, byte for byte, in each form; and what
// asks for more than that gets it. (API-09)
func TestPlainGetsAnswerAsTheLibraryDoes(t *testing.T) {
	s := start(t)
	if _, err := s.Kube.CoreV1().Services("default").Create(t.Context(), namedService("web"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const path = "/api/v1/namespaces/default/services/web"
	awaitCached(t, s, "web")
	// A query that means nothing takes a request to the whole chain.
	for _, accept := range []string{"", "application/json", "*/*", "application/vnd.kubernetes.protobuf,application/json", "application/yaml"} {
		before := s.PlainGets()
		header := http.Header{"Accept": {accept}}
		if accept == "" {
			header = nil
		}
		code, plain, body := rawGet(t, s.Config, path, header)
		if s.PlainGets() != before+1 {
			t.Errorf("%q wasn't answered as a plain get", accept)
		}
		wantCode, want, wantBody := rawGet(t, s.Config, path+"?resourceVersion=", header)
		if s.PlainGets() != before+1 {
			t.Fatal("a query was answered as a plain get")
		}
		if code != wantCode || !bytes.Equal(body, wantBody) {
			t.Errorf("%q: got %d %q\nwant %d %q", accept, code, body, wantCode, wantBody)
		}
		if plain.Get("Audit-Id") == "" || plain.Get("Audit-Id") == want.Get("Audit-Id") {
			t.Errorf("%q: audit ids %q and %q", accept, plain.Get("Audit-Id"), want.Get("Audit-Id"))
		}
		for _, h := range []http.Header{plain, want} {
			h.Del("Audit-Id")
			h.Del("Date")
		}
		if !apiequality.Semantic.DeepEqual(plain, want) {
			t.Errorf("%q: header %v, want %v", accept, plain, want)
		}
	}
	before := s.PlainGets()
	if code, _, body := rawGet(t, s.Config, path, http.Header{"Accept": {"application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}}); code != 200 || !bytes.Contains(body, []byte(`"kind":"Table"`)) {
		t.Errorf("a table: %d %s", code, body)
	}
	if _, header, _ := rawGet(t, s.Config, path, http.Header{"Audit-Id": {"mine"}}); header.Get("Audit-Id") != "mine" {
		t.Errorf("the audit id is %q", header.Get("Audit-Id"))
	}
	for _, refused := range []string{path + "/", "/api/v1//namespaces/default/services/web", "/api/v1/services/web", path + "-none", "/api/v1/namespaces/default/services/WEB_1"} {
		if code, _, body := rawGet(t, s.Config, refused, nil); code == http.StatusOK && refused != path+"/" {
			t.Errorf("%s: %d %s", refused, code, body)
		}
	}
	if got := s.PlainGets(); got != before {
		t.Errorf("%d of them were answered as plain gets", got-before)
	}
}

// Every plain get is authenticated and authorized anew: rights that are taken away, or an
// account that is deleted, end at once; impersonation is the whole chain's.
func TestPlainGetsAskForRights(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	if _, err := s.Kube.CoreV1().Services("default").Create(ctx, namedService("web"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const path = "/api/v1/namespaces/default/services/web"
	awaitCached(t, s, "web")
	token := readerToken(t, s)
	as := rest.AnonymousClientConfig(s.Config)
	as.BearerToken = token
	if code, _, body := rawGet(t, as, path, nil); code != http.StatusForbidden || !json.Valid(body) {
		t.Errorf("without rights: %d %s", code, body)
	}
	role := `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"reader"},"rules":[{"apiGroups":[""],"resources":["services"],"verbs":["get"],"resourceNames":["web"]}]}`
	binding := `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"name":"reader"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"reader"},"subjects":[{"kind":"ServiceAccount","name":"reader","namespace":"default"}]}`
	ask(t, s, "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", role).want(t, 201)
	ask(t, s, "POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).want(t, 201)
	code := func(config *rest.Config, header http.Header) int {
		code, _, _ := rawGet(t, config, path, header)
		return code
	}
	eventually := func(want int) {
		t.Helper()
		apitest.Eventually(t, fmt.Sprint("an answer with ", want), func() error {
			if got := code(as, nil); got != want {
				return fmt.Errorf("got %d", got)
			}
			return nil
		})
	}
	eventually(http.StatusOK)
	if before := s.PlainGets(); code(as, nil) != http.StatusOK || s.PlainGets() != before+1 {
		t.Error("the reader's get isn't plain")
	}
	if got := code(as, http.Header{"Impersonate-User": {"system:admin"}}); got != http.StatusForbidden {
		t.Errorf("impersonation without the right: %d", got)
	}
	if got := code(s.Config, http.Header{"Impersonate-User": {"nobody"}}); got != http.StatusForbidden {
		t.Errorf("as somebody without rights: %d", got)
	}
	ask(t, s, "DELETE", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings/reader", "").want(t, 200)
	eventually(http.StatusForbidden)
	ask(t, s, "DELETE", "/api/v1/namespaces/default/serviceaccounts/reader", "").want(t, 200)
	eventually(http.StatusUnauthorized)
	anonymous := rest.AnonymousClientConfig(s.Config)
	if got := code(anonymous, nil); got != http.StatusUnauthorized {
		t.Errorf("a stranger: %d", got)
	}
}

// A get of an object that isn't there is answered to a token as to a certificate: the
// whole chain finds the token where it was.
func TestPlainGetOfNothingKeepsTheToken(t *testing.T) {
	s := start(t)
	token := readerToken(t, s)
	ask(t, s, "POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"reader"},
		"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"ServiceAccount","name":"reader","namespace":"default"}]}`).want(t, 201)
	as := rest.AnonymousClientConfig(s.Config)
	as.BearerToken = token
	apitest.Eventually(t, "rights", func() error {
		code, header, body := rawGet(t, as, "/api/v1/namespaces/default/services/none", nil)
		if code != http.StatusNotFound || len(header.Values("Audit-Id")) != 1 {
			return fmt.Errorf("got %d, audit ids %q: %s", code, header.Values("Audit-Id"), body)
		}
		return nil
	})
}

// awaitCached waits until the watch cache has the Service as it is.
func awaitCached(t *testing.T, s *apitest.Server, name string) {
	t.Helper()
	apitest.Eventually(t, "the watch cache has "+name, func() error {
		svc, err := s.Kube.CoreV1().Services("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if s.Held(svc) == nil {
			return fmt.Errorf("not version %s", svc.ResourceVersion)
		}
		return nil
	})
}

// readerToken is of an account that has no rights yet.
func readerToken(t *testing.T, s *apitest.Server) string {
	t.Helper()
	ask(t, s, "POST", "/api/v1/namespaces/default/serviceaccounts", `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"reader"}}`).want(t, 201)
	token, err := requestToken(t, s, "reader", authenticationv1.TokenRequestSpec{})
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A store in other processes may know of writes that this one doesn't: every get asks it.
func TestGetsAskAStoreElsewhere(t *testing.T) {
	s := start(t, func(c *apiserver.Config) { c.Store = struct{ etcd.Source }{c.Store} })
	if _, err := s.Kube.CoreV1().Services("default").Create(t.Context(), namedService("web"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitCached(t, s, "web")
	if code, _, body := rawGet(t, s.Config, "/api/v1/namespaces/default/services/web", nil); code != http.StatusOK || s.PlainGets() != 0 {
		t.Errorf("got %d, %d without the store: %s", code, s.PlainGets(), body)
	}
}
