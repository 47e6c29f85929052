package agent

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
)

// asked notes the queries that pass.
type asked struct {
	http.RoundTripper
	mu      sync.Mutex
	queries []string
}

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.queries = append(a.queries, r.URL.RawQuery)
	a.mu.Unlock()
	return a.RoundTripper.RoundTrip(r)
}

// Few objects are listed, many are streamed; changes follow in both cases.
func TestFewAreListed(t *testing.T) {
	s := apitest.Start(t)
	maps := s.Kube.CoreV1().ConfigMaps("default")
	if _, err := s.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, few := range map[string]int64{"listed": 3, "streamed": 2} {
		t.Run(name, func(t *testing.T) {
			seen := &asked{}
			config := rest.CopyConfig(s.Config)
			config.Wrap(func(rt http.RoundTripper) http.RoundTripper {
				seen.RoundTripper = rt
				return seen
			})
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			api := client.CoreV1().ConfigMaps("default")
			came := make(chan string, 16)
			f := follow[*corev1.ConfigMap](client, "maps", slog.New(slog.DiscardHandler), nil, lister(api.List), api.Watch,
				one[*corev1.ConfigMap](func(c *corev1.ConfigMap) { came <- c.Labels["change"] }))
			f.few = few
			ctx, cancel := context.WithCancel(t.Context())
			var group sync.WaitGroup
			group.Go(func() { f.run(ctx) })
			defer group.Wait()
			defer cancel()
			wait := func(want string) {
				t.Helper()
				for {
					select {
					case got := <-came:
						if got == want {
							return
						}
					case <-time.After(30 * time.Second):
						t.Fatalf("%q never came", want)
					}
				}
			}
			first := <-came
			c, err := maps.Get(t.Context(), "a", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			c.Labels = map[string]string{"change": first + name}
			if _, err := maps.Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			wait(first + name)
			seen.mu.Lock()
			defer seen.mu.Unlock()
			streamed := slices.ContainsFunc(seen.queries, func(q string) bool { return strings.Contains(q, "sendInitialEvents=true") })
			if streamed != (name == "streamed") {
				t.Errorf("%q were asked", seen.queries)
			}
		})
	}
}
