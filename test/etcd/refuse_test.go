package etcd

import (
	"context"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/apiserver/etcd"
)

// What is wrong with an etcd cluster is said in one sentence.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, true)
	other, data := t.TempDir(), t.TempDir()
	writeAuthority(t, other)
	good := c.flags()
	plain := strings.Replace(c.clients[0], "https", "http", 1)
	for name, r := range map[string]struct {
		want  string
		flags []string
	}{
		"wrong authority": {
			"has a certificate of an authority that isn't in --etcd-cafile; give the one that signed it",
			append(good, "--etcd-cafile", other+"/ca.crt"),
		},
		"wrong client": {
			"refuses this client's certificate (",
			append(good, "--etcd-certfile", other+"/both.crt", "--etcd-keyfile", other+"/both.key"),
		},
		"no client": {"refuses this client's certificate (", []string{"--etcd-servers", c.clients[0], "--etcd-cafile", c.pki + "/ca.crt"}},
		"other name": {
			"has a certificate for other names (",
			append(good, "--etcd-servers", strings.Replace(c.clients[0], "127.0.0.1", "localhost", 1)),
		},
		"key of another": {"don't fit together: ", append(good, "--etcd-keyfile", other+"/both.key")},
		"http and https": {"has http and https URLs", append(good, "--etcd-servers", c.clients[0]+","+plain)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, code := portico(t, upArgs(filepath.Join(data, name), r.flags...)...)
			if code != 1 || !strings.HasPrefix(out, "portico: ") || strings.Count(out, "\n") != 1 || !strings.Contains(out, r.want) {
				t.Errorf("%d: %s", code, out)
			}
		})
	}
}

func open(t *testing.T, server string, timeout time.Duration) error {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	e, err := etcd.OpenExternal(t.Context(), etcd.ExternalConfig{Servers: []*url.URL{u}, Timeout: timeout, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		e.Close()
	}
	return err
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	if err := open(t, "http://"+freePort(t), time.Second); err == nil || !strings.Contains(err.Error(), "connection refused; check --etcd-servers") {
		t.Error(err)
	}
}

// An etcd whose transactions are too small for a Service is refused.
func TestTransactionLimit(t *testing.T) {
	t.Parallel()
	small := startCluster(t, 1, false, "-max-txn-ops", "64")
	if err := open(t, small.clients[0], 10*time.Second); err == nil || !strings.Contains(err.Error(), "fewer than 128 operations in a transaction") {
		t.Error(err)
	}
}

// Another program's keys under the same prefix, and one of our own beside them.
func TestForeign(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 1, false)
	client := c.client(t)
	if _, err := client.Put(context.Background(), "/registry/pods/default/x", "y"); err != nil {
		t.Fatal(err)
	}
	out, code := portico(t, upArgs(t.TempDir(), c.flags()...)...)
	if code != 1 || !strings.Contains(out, "portico: etcd holds another cluster's objects below /registry; choose an --etcd-prefix") {
		t.Errorf("%d: %s", code, out)
	}
	s := startServer(t, t.TempDir(), append(c.flags(), "--etcd-prefix", "/site-a/")...)
	if _, err := create(t.Context(), s.kube, "one"); err != nil {
		t.Fatal(err)
	}
	if got, err := client.Get(t.Context(), "/site-a/registry/services/specs/default/one"); err != nil || len(got.Kvs) != 1 {
		t.Errorf("the Service isn't below the prefix: %v", err)
	}
	out, code = portico(t, "snapshot", "save", filepath.Join(t.TempDir(), "x"), "--data-dir", s.dir)
	if code != 1 || !strings.Contains(out, "the store is an etcd cluster of its own: save it with `etcdctl snapshot save`") {
		t.Errorf("%d: %s", code, out)
	}
}
