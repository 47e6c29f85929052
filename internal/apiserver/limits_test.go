package apiserver_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
)

// A body of 4 MB is refused with 413 and a Status, whatever it is for.
func TestLargeBodyIsRefused(t *testing.T) {
	t.Parallel()
	s := start(t)
	large := `{"metadata":{"name":"large"},"data":{"a":"` + strings.Repeat("x", 4<<20) + `"}}`
	ask(t, s, "POST", configMaps, large).want(t, 413, `"kind":"Status"`, `"reason":"RequestEntityTooLarge"`, `"code":413`)
	ask(t, s, "POST", configMaps, `{"metadata":{"name":"small"}}`).want(t, 201)
	ask(t, s, "PUT", configMaps+"/small", large).want(t, 413, `"reason":"RequestEntityTooLarge"`)
	for _, form := range []string{"application/merge-patch+json", "application/strategic-merge-patch+json"} {
		askAs(t, s, "PATCH", configMaps+"/small", form, large).want(t, 413, `"reason":"RequestEntityTooLarge"`)
	}
}

// Beyond the limit a request is answered 429 with Retry-After; probes, watches and
// requests of system:masters are answered all the same, and reads have a limit of their
// own.
func TestTooManyAtOnce(t *testing.T) {
	t.Parallel()
	s := start(t, func(c *apiserver.Config) { c.Limits = apiserver.Limits{Mutating: 1} })
	user := accountOf(t, s)
	body, feed := io.Pipe() // a request whose body doesn't come occupies the one place
	slow := newRequest(t, s, "POST", configMaps, body)
	slow.Header.Set("Expect", "100-continue") // answered when the body is first read: past the limit
	inPlace := make(chan struct{})
	slow = slow.WithContext(httptrace.WithClientTrace(slow.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(inPlace) }}))
	answer := make(chan error, 1)
	go func() {
		resp, err := user.Do(slow)
		if err == nil {
			resp.Body.Close()
		}
		answer <- err
	}()
	select {
	case <-inPlace:
	case err := <-answer:
		t.Fatalf("the slow request was answered at once: %v", err)
	}
	create := func() (*http.Response, string) {
		resp, err := user.Do(newRequest(t, s, "POST", configMaps+"?dryRun=All", strings.NewReader(`{"metadata":{"name":"x"}}`)))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(raw)
	}
	if resp, text := create(); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" || !strings.Contains(text, "Too many requests") {
		t.Errorf("got %d, %q, %q", resp.StatusCode, resp.Header, text)
	}
	for _, path := range []string{"/healthz", "/livez", "/readyz/etcd", configMaps, configMaps + "?watch=1&timeoutSeconds=1"} {
		resp, err := user.Do(newRequest(t, s, "GET", path, nil))
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != 200 {
			t.Errorf("%s: got %d while the server is busy", path, resp.StatusCode)
		}
	}
	ask(t, s, "POST", configMaps, `{"metadata":{"name":"master"}}`).want(t, 201)
	feed.Close()
	<-answer
	apitest.Eventually(t, "a free place", func() error {
		if resp, _ := create(); resp.StatusCode != 201 {
			return context.DeadlineExceeded
		}
		return nil
	})
}

// A request that takes too long is ended with 504.
func TestRequestTimeout(t *testing.T) {
	t.Parallel()
	const limit = 5 * time.Second // also for what the start asks
	s := start(t, func(c *apiserver.Config) { c.Limits = apiserver.Limits{Request: limit} })
	client, err := rest.HTTPClientFor(s.Config) // HTTP/2: over 1.1 an answer waits for the rest of the body
	if err != nil {
		t.Fatal(err)
	}
	body, feed := io.Pipe()
	defer feed.Close()
	go func() { _, _ = feed.Write([]byte(`{`)) }()
	began := time.Now()
	resp, err := client.Do(newRequest(t, s, "POST", configMaps, body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if took := time.Since(began); resp.StatusCode != http.StatusGatewayTimeout || took < limit {
		t.Errorf("got %d after %v", resp.StatusCode, took)
	}
}

func newRequest(t *testing.T, s *apitest.Server, method, path string, body io.Reader) *http.Request {
	t.Helper()
	host := s.Config.Host
	if !strings.Contains(host, "://") {
		host = "https://" + host
	}
	req, err := http.NewRequestWithContext(t.Context(), method, host+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	return req
}

// accountOf is a client that may write ConfigMaps and isn't of system:masters; each
// request has a connection of its own.
func accountOf(t *testing.T, s *apitest.Server) *http.Client {
	t.Helper()
	ctx := context.Background()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "busy"}}
	if _, err := s.Kube.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "busy"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin", APIGroup: rbacv1.GroupName},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "busy", Namespace: "default"}},
	}
	if _, err := s.Kube.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := s.Kube.CoreV1().ServiceAccounts("default").CreateToken(ctx, "busy", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(s.Config)
	config.BearerToken = token.Status.Token
	config.NextProtos = []string{"http/1.1"}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the account's rights", func() error {
		resp, err := client.Do(newRequest(t, s, "GET", configMaps, nil))
		if err != nil {
			return err
		}
		if resp.Body.Close(); resp.StatusCode != 200 {
			return context.DeadlineExceeded
		}
		return nil
	})
	return client
}
