package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
)

// start runs a server that has the namespace default.
func start(t testing.TB, change ...func(*apiserver.Config)) *apitest.Server {
	t.Helper()
	s := apitest.Start(t, change...)
	makeNamespace(t, s, "default")
	return s
}

func makeNamespace(t testing.TB, s *apitest.Server, name string) *corev1.Namespace {
	t.Helper()
	ns, err := s.Kube.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// answer is what a client without a library sees.
type answer struct {
	code     int
	warnings []string
	body     string
}

// ask sends JSON as system:masters.
func ask(t testing.TB, s *apitest.Server, method, path, body string) answer {
	t.Helper()
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	return askWith(t, client, s.Config.Host, method, path, "application/json", body)
}

func askWith(t testing.TB, client *http.Client, host, method, path, contentType, body string) answer {
	t.Helper()
	if !strings.Contains(host, "://") {
		host = "https://" + host
	}
	req, err := http.NewRequestWithContext(context.Background(), method, host+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header.Values("Warning"), string(raw)}
}

// want fails unless the answer has the code and its body and warnings have the parts.
func (a answer) want(t testing.TB, code int, parts ...string) answer {
	t.Helper()
	all := a.body + strings.Join(a.warnings, "\n")
	if a.code != code {
		t.Errorf("got %d, want %d: %s", a.code, code, all)
	}
	for _, part := range parts {
		if !strings.Contains(strings.ReplaceAll(all, `\"`, `"`), part) {
			t.Errorf("%q is not in: %s", part, all)
		}
	}
	return a
}

// field reads a path of the answer, such as spec.clusterIP.
func (a answer) field(t testing.TB, path string) any {
	t.Helper()
	var at any
	if err := json.Unmarshal([]byte(a.body), &at); err != nil {
		t.Fatalf("%v: %s", err, a.body)
	}
	for part := range strings.SplitSeq(path, ".") {
		m, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = m[part]
	}
	return at
}
