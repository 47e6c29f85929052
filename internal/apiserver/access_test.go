package apiserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/apiserver/etcd"
)

func httpClient(t testing.TB, s *apitest.Server) *http.Client {
	t.Helper()
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// certClient authenticates by a certificate of an authority; nil is nobody.
func certClient(t *testing.T, s *apitest.Server, by *certs.Authority, user string, groups ...string) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.Authority.PEM())
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	if by != nil {
		cert, key, err := by.Client(user, groups...)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 2 * time.Minute}
}

func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	s := start(t)
	foreign, err := certs.Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	past, err := certs.Open(s.Dir+"/pki", func() time.Time { return time.Now().Add(-2 * certs.LeafLife) })
	if err != nil {
		t.Fatal(err)
	}
	const services = "/api/v1/namespaces/default/services"
	open := map[string]int{"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200}
	for name, c := range map[string]struct {
		client *http.Client
		want   map[string]int
	}{
		"an administrator": {
			certClient(t, s, s.Authority, "admin", "system:masters"),
			map[string]int{services: 200, "/api": 200, "/metrics": 200},
		},
		"somebody without rights": {
			certClient(t, s, s.Authority, "jane", "people"),
			map[string]int{services: 403, "/api": 200, "/apis": 200, "/openapi/v2": 200, "/openapi/v3": 200, "/apis/kubevirt.io/v1": 200, "/metrics": 403, "/apix": 403},
		},
		"nobody": {
			certClient(t, s, nil, ""),
			map[string]int{services: 401, "/api": 401, "/metrics": 401, "/healthz/etcd": 401, "/openapi/v2": 401, "/": 401},
		},
		"a certificate of another authority": {
			certClient(t, s, foreign, "admin", "system:masters"), map[string]int{services: 401, "/api": 401},
		},
		"an expired certificate": {
			certClient(t, s, past, "admin", "system:masters"), map[string]int{services: 401, "/api": 401},
		},
	} {
		for _, paths := range []map[string]int{open, c.want} {
			for path, want := range paths {
				for range 2 { // an answer that is remembered must be the same
					if got := askWith(t, c.client, s.Config.Host, "GET", path, "", ""); got.code != want {
						t.Errorf("%s, %s: got %d, want %d: %.200s", name, path, got.code, want, got.body)
					}
				}
			}
		}
	}
	req, err := http.NewRequestWithContext(context.Background(), "GET", s.Config.Host+services, nil)
	if err != nil {
		t.Fatal(err)
	}
	bare := &http.Client{Transport: certClient(t, s, nil, "").Transport}
	req.Header.Set("Authorization", "Bearer wrong")
	resp, err := bare.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("a wrong token: got %d, want 401", resp.StatusCode)
	}
}

// The store of a newer Portico is refused, in words that help.
func TestNewerStoreIsRefused(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	store, err := etcd.StartEmbedded(ctx, t.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c, err := store.Client()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := etcd.Stamp(ctx, c.Client); err != nil {
			t.Fatal(err)
		}
	}
	for _, found := range []string{"2", "a"} {
		if _, err := c.KV.Put(ctx, "/registry/portico/version", found); err != nil {
			t.Fatal(err)
		}
		var format *etcd.FormatError
		if err := etcd.Stamp(ctx, c.Client); !errors.As(err, &format) || format.Found != found {
			t.Errorf("format %q: got %v", found, err)
		}
	}
}
