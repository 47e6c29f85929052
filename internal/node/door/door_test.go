package door

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: "ca"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &authority{cert, key, pool}
}

func (a *authority) issue(t *testing.T, cn string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: cn},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// room is a Source with one guest, default/vm, that echoes.
type room struct{ sick error }

func (r *room) Healthy() error { return r.sick }

func (r *room) Pods() []corev1.Pod {
	return []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "virt-launcher-vm"}}}
}

func (r *room) Console(_ context.Context, namespace, instance string) (io.ReadWriteCloser, error) {
	if namespace != "default" {
		return nil, ErrNoInstance
	}
	if instance != "vm" {
		return nil, errors.New("the guest isn't running")
	}
	a, b := net.Pipe()
	go func() {
		io.WriteString(b, "welcome ")
		io.Copy(b, b)
	}()
	return a, nil
}

// open starts a door and gives its address, and a way to close it.
func open(t *testing.T, a *authority, r *room) (addr string, shut func()) {
	t.Helper()
	s, err := New(Config{
		TLS:   &tls.Config{Certificates: []tls.Certificate{a.issue(t, "node")}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool},
		Allow: AllowNames("portico-apiserver"), Source: r, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, l) }()
	shut = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	return l.Addr().String(), shut
}

func (a *authority) client(t *testing.T, cn string) *tls.Config {
	return &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{a.issue(t, cn)}}
}

func TestConsole(t *testing.T) {
	a := newAuthority(t)
	addr, shut := open(t, a, &room{})
	api := a.client(t, "portico-apiserver")
	conn, err := DialConsole(t.Context(), addr, api, "default", "vm")
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "hello")
	got := make([]byte, len("welcome hello"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "welcome hello" {
		t.Fatalf("read %q, %v", got, err)
	}
	for _, tc := range []struct {
		cn, namespace, instance string
		code                    int
	}{
		{"portico-apiserver", "other", "vm", http.StatusNotFound},
		{"portico-apiserver", "default", "off", http.StatusConflict},
		{"portico-apiserver", "default", "vm/../..", http.StatusConflict}, // a name, not a path
		{"jane", "default", "vm", http.StatusForbidden},
	} {
		_, err := DialConsole(t.Context(), addr, a.client(t, tc.cn), tc.namespace, tc.instance)
		var refused *StatusError
		if !errors.As(err, &refused) || refused.Code != tc.code {
			t.Errorf("%+v: got %v, want status %d", tc, err, tc.code)
		}
	}
	if _, err := DialConsole(t.Context(), addr, &tls.Config{RootCAs: a.pool}, "default", "vm"); err == nil {
		t.Error("the door opened without a certificate")
	}
	if _, err := DialConsole(t.Context(), addr, newAuthority(t).client(t, "portico-apiserver"), "default", "vm"); err == nil {
		t.Error("the door opened by a certificate of another authority")
	}
	shut() // ends the stream and waits for it
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the stream outlived the door")
	}
}

func TestKubeletPaths(t *testing.T) {
	a := newAuthority(t)
	r := &room{}
	addr, shut := open(t, a, r)
	defer shut()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: a.client(t, "portico-apiserver"), DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := client.Get("https://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, body := get("/healthz"); code != 200 || body != "ok" {
		t.Errorf("healthz: %d %s", code, body)
	}
	_, body := get("/pods")
	var list corev1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil || list.Kind != "PodList" || len(list.Items) != 1 {
		t.Errorf("pods: %s, %v", body, err)
	}
	if code, _ := get("/console/default/vm"); code != http.StatusUpgradeRequired {
		t.Errorf("a console without upgrade: %d", code)
	}
	r.sick = errors.New("QEMU is missing")
	if code, _ := get("/healthz"); code != http.StatusServiceUnavailable {
		t.Errorf("a sick node's healthz: %d", code)
	}
}

func TestDoorWithoutLockIsRefused(t *testing.T) {
	_, err := New(Config{TLS: &tls.Config{}, Allow: AllowNames("x"), Source: &room{}, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Error("a door that verifies nobody was made")
	}
}
