package dns

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// writeKeyPair makes a certificate of that name and its key in files.
func writeKeyPair(t *testing.T, name, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTLS: the same answers by TLS, with a certificate that may be replaced. DNS-07
func TestTLS(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if _, err := OpenKeyPair(certFile, keyFile, time.Now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), certFile) {
		t.Errorf("without files: %v", err)
	}
	writeKeyPair(t, "first", certFile, keyFile)
	now := time.Now()
	pair, err := OpenKeyPair(certFile, keyFile, func() time.Time { now = now.Add(2 * lookAgain); return now }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, testConfig())
	s.Replace(nil, cluster())
	l, err := ListenTLS(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), pair.GetCertificate)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil, []net.Listener{l}) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	ask := func() (answer, certificate string) {
		t.Helper()
		client := &dns.Client{Net: "tcp-tls", TLSConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"dot"}}}
		conn, err := client.Dial(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 2 { // on one connection
			reply, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA), conn)
			if err != nil {
				t.Fatal(err)
			}
			answer = picture(reply)
		}
		return answer, conn.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	const want = "NOERROR\n web.default.svc.cluster.local. 5 IN A 10.96.0.20"
	if answer, cert := ask(); answer != want || cert != "first" {
		t.Errorf("%s with the certificate %s", answer, cert)
	}
	if err := os.WriteFile(certFile, []byte("half a cert"), 0o600); err != nil {
		t.Fatal(err)
	}
	if answer, cert := ask(); answer != want || cert != "first" {
		t.Errorf("with a broken file: %s with the certificate %s", answer, cert)
	}
	writeKeyPair(t, "second, and longer", certFile, keyFile)
	if answer, cert := ask(); answer != want || cert != "second, and longer" {
		t.Errorf("with a new file: %s with the certificate %s", answer, cert)
	}
	metrics := `
		# HELP portico_dns_queries_total Queries that were answered.
		# TYPE portico_dns_queries_total counter
		portico_dns_queries_total{rcode="NOERROR",transport="tls",type="A"} 6
	`
	eventually(t, func() error {
		return testutil.CollectAndCompare(s.Collector(), strings.NewReader(metrics), "portico_dns_queries_total")
	})
}

// TestTLSRefusesStrangers: they don't even get a handshake. DNS-07
func TestTLSRefusesStrangers(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	writeKeyPair(t, "n", certFile, keyFile)
	pair, err := OpenKeyPair(certFile, keyFile, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, testConfig())
	s.cfg.AllowFrom = nil // loopback is a stranger here
	l, err := ListenTLS(t.Context(), netip.MustParseAddrPort("127.0.0.1:0"), pair.GetCertificate)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, nil, []net.Listener{l}) }()
	if conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
		conn.Close()
		t.Error("a stranger got a handshake")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
