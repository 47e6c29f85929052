package etcd

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// member is the main function of a process that is a member of an etcd cluster.
func member(args []string) int {
	f := flag.NewFlagSet("member", flag.ExitOnError)
	cfg := embed.NewConfig()
	f.StringVar(&cfg.Name, "name", "", "")
	f.StringVar(&cfg.Dir, "dir", "", "")
	f.StringVar(&cfg.InitialCluster, "cluster", "", "")
	client, peer := f.String("client", "", ""), f.String("peer", "", "")
	pki := f.String("pki", "", "")
	f.UintVar(&cfg.MaxTxnOps, "max-txn-ops", 2048, "")
	f.Int64Var(&cfg.QuotaBackendBytes, "quota", 0, "")
	_ = f.Parse(args) // it exits
	cfg.LogLevel, cfg.LogOutputs = "warn", []string{"stderr"}
	// One machine has no network to wait for, but a busy one may hold a heartbeat up, and a
	// change of the leader fails writes.
	cfg.TickMs, cfg.ElectionMs = 100, 3000
	cfg.EnableGRPCGateway = false
	cfg.ListenClientUrls, cfg.ListenPeerUrls = urls(*client), urls(*peer)
	cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = cfg.ListenClientUrls, cfg.ListenPeerUrls
	if *pki != "" {
		cfg.ClientTLSInfo.TrustedCAFile, cfg.ClientTLSInfo.ClientCertAuth = filepath.Join(*pki, "ca.crt"), true
		cfg.ClientTLSInfo.CertFile, cfg.ClientTLSInfo.KeyFile = filepath.Join(*pki, "both.crt"), filepath.Join(*pki, "both.key")
		cfg.PeerTLSInfo = cfg.ClientTLSInfo
	}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Fprintln(os.Stderr, <-server.Err())
	return 1
}

func urls(s string) []url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return []url.URL{*u}
}

// cluster is an etcd cluster of processes.
type cluster struct {
	t       testing.TB
	pki     string // folder of certificates; "" without TLS
	members []*process
	args    [][]string
	clients []string // URLs
}

// startCluster starts n members with TLS, or without.
func startCluster(t testing.TB, n int, secure bool, more ...string) *cluster {
	t.Helper()
	c, scheme := &cluster{t: t}, "http"
	if secure {
		c.pki, scheme = t.TempDir(), "https"
		writeAuthority(t, c.pki)
	}
	var initial, peers []string
	for i := range n {
		peers = append(peers, scheme+"://"+freePort(t))
		initial = append(initial, fmt.Sprintf("m%d=%s", i, peers[i]))
		c.clients = append(c.clients, scheme+"://"+freePort(t))
	}
	for i := range n {
		c.args = append(c.args, append([]string{
			"-name", fmt.Sprintf("m%d", i), "-dir", t.TempDir(), "-client", c.clients[i], "-peer", peers[i],
			"-cluster", strings.Join(initial, ","), "-pki", c.pki,
		}, more...))
		c.members = append(c.members, start(t, roleMember, c.args[i]...))
	}
	client := c.client(t)
	eventually(t, 30*time.Second, "etcd answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Get(ctx, "x")
		return err == nil
	})
	return c
}

// restart starts a member that was killed again, until the test ends that made it.
func (c *cluster) restart(i int) { c.members[i] = start(c.t, roleMember, c.args[i]...) }

// flags are those of `portico up`.
func (c *cluster) flags() []string {
	out := []string{"--etcd-servers", strings.Join(c.clients, ",")}
	if c.pki != "" {
		out = append(out, "--etcd-cafile", c.pki+"/ca.crt", "--etcd-certfile", c.pki+"/both.crt", "--etcd-keyfile", c.pki+"/both.key")
	}
	return out
}

func (c *cluster) tls(t testing.TB) *tls.Config {
	if c.pki == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.pki+"/both.crt", c.pki+"/both.key")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(c.pki + "/ca.crt")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
}

func (c *cluster) client(t testing.TB) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.clients, TLS: c.tls(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// freePort is an address of loopback that nobody uses: nothing else runs in this
// network namespace.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// writeAuthority writes ca.crt, and a pair both.crt and both.key for servers and
// clients on loopback.
func writeAuthority(t testing.TB, dir string) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	write := func(name, kind string, der []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	caKey, leafKey := key(), key()
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "etcd's authority"}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "both"}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	write("ca.crt", "CERTIFICATE", der, err)
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, leafKey.Public(), caKey)
	write("both.crt", "CERTIFICATE", der, err)
	der, err = x509.MarshalPKCS8PrivateKey(leafKey)
	write("both.key", "PRIVATE KEY", der, err)
}
