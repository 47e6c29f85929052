package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
)

// peersVersion is that of the Kubernetes which benchmarks compare with; `make` in bench
// builds it there.
const peersVersion = "v1.36.3"

// startKubernetes runs kube-apiserver on an etcd of its own until the test ends. Where they
// weren't built it skips the test.
func startKubernetes(t *testing.T) *rest.Config {
	t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Skip(err)
	}
	programs := filepath.Join(home, ".cache", "portico-bench", peersVersion)
	for _, p := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(programs, p)); err != nil {
			t.Skipf("%s isn't built: %v", p, err)
		}
	}
	dir := t.TempDir()
	ports := freePorts(t, 3)
	store := "http://127.0.0.1:" + ports[0]
	peer := "http://127.0.0.1:" + ports[1]
	daemon(t, filepath.Join(programs, "etcd"), "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls="+store, "--advertise-client-urls="+store,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer, "--unsafe-no-fsync", "--log-level=error")
	key := signingKey(t, dir)
	tokens := filepath.Join(dir, "tokens")
	const token = "only-on-loopback"
	if err := os.WriteFile(tokens, []byte(token+`,admin,1,"system:masters"`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon(t, filepath.Join(programs, "kube-apiserver"), "--etcd-servers="+store, "--bind-address=127.0.0.1", "--secure-port="+ports[2],
		"--advertise-address=192.0.2.1", "--cert-dir="+dir, "--token-auth-file="+tokens, "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--service-cluster-ip-range=10.96.0.0/12")
	config := &rest.Config{Host: "https://127.0.0.1:" + ports[2], BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true}} // it signs for itself
	client := discovery.NewDiscoveryClientForConfigOrDie(config).RESTClient()
	apitest.Eventually(t, "kube-apiserver is ready", func() error { return client.Get().AbsPath("/readyz").Do(t.Context()).Error() })
	return config
}

func freePorts(t *testing.T, n int) (out []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() //nolint:errcheck // another takes the port
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, port)
	}
	return out
}

// daemon runs a program until the test ends.
func daemon(t *testing.T, program string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			raw := out.Bytes()
			t.Logf("%s said at the end: %s", filepath.Base(program), raw[max(0, len(raw)-2000):])
		}
	})
}

func signingKey(t *testing.T, dir string) (file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "signer.key")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(fmt.Errorf("write the signing key: %w", err))
	}
	return file
}
