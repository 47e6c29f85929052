package bootstrap_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	testclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/controllers/certificates"
	"portico.dev/portico/internal/controllers/joining"
	"portico.dev/portico/internal/controllers/system"
)

const life = 10 * time.Minute

// cluster is an API server with the controllers that hosts join by.
func cluster(t *testing.T) *apitest.Server {
	t.Helper()
	s := apitest.Start(t)
	if err := system.Bootstrap(t.Context(), s.Kube, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	running.Go(func() {
		if err := certificates.Run(ctx, certificates.Deps{Client: s.Kube, Signer: s.Authority.WithLeafLife(life), Log: log}); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		settings := bootstrap.Settings{ServiceCIDR: "10.96.0.0/12", ClusterDomain: "cluster.local"}
		if err := joining.Run(ctx, joining.Deps{Client: s.Kube, Log: log, Settings: settings}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return s
}

// as is a client of the server by a bearer token.
func as(t *testing.T, s *apitest.Server, token string) kubernetes.Interface {
	t.Helper()
	kube, err := kubernetes.NewForConfig(&rest.Config{
		Host: s.Config.Host, BearerToken: token,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.Authority.PEM(), ServerName: "localhost"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

// join makes the host the node b.
func join(t *testing.T, s *apitest.Server) (bootstrap.Home, *bootstrap.Member, kubernetes.Interface) {
	t.Helper()
	token := bootstrap.NewToken()
	if _, err := s.Kube.CoreV1().Secrets("kube-system").Create(t.Context(), token.Object(time.Now().Add(time.Hour), ""), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	kube := as(t, s, token.String())
	member := &bootstrap.Member{Server: s.Config.Host, Node: "b"}
	apitest.Eventually(t, "the cluster's settings are told", func() (err error) {
		member.Settings, err = bootstrap.ReadSettings(t.Context(), kube)
		return err
	})
	// The token is for joining, and for nothing else.
	if _, err := kube.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("who has a token and lists Secrets: %v", err)
	}
	client, err := bootstrap.RequestClient(t.Context(), kube, member.Node)
	if err != nil {
		t.Fatal(err)
	}
	home := bootstrap.Home(filepath.Join(t.TempDir(), "identity"))
	if err := home.Create(*member, s.Authority.PEM(), client); err != nil {
		t.Fatal(err)
	}
	if member, err = home.Read(); err != nil || member == nil || member.Settings.ClusterDomain != "cluster.local" {
		t.Fatalf("it keeps %+v, %v", member, err)
	}
	config := home.Config(member)
	config.ServerName = "localhost"
	node, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return home, member, node
}

// serial is that of the certificate in a file of the home.
func serial(t *testing.T, home bootstrap.Home, file string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(string(home), file))
	if os.IsNotExist(err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert.SerialNumber.String()
}

// OPS-05, NET-04: a host with a token becomes a node; its certificates are renewed while
// it runs, and its door's follows its addresses.
func TestJoinAndKeep(t *testing.T) {
	t.Parallel()
	s := cluster(t)
	home, member, kube := join(t, s)
	who, err := kube.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || who.Status.UserInfo.Username != "system:node:b" {
		t.Fatalf("it is %+v, %v", who, err)
	}
	node, err := kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	show := func(addrs ...string) []netip.Addr {
		node.Status.Addresses = nil
		var out []netip.Addr
		for _, a := range addrs {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
			out = append(out, netip.MustParseAddr(a))
		}
		if node, err = kube.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return out
	}
	begin := time.Now()
	clk := testclock.NewFakeClock(begin)
	keeper, err := bootstrap.NewKeeper(home, member.Node, kube, clk, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keeper.GetCertificate(nil); err == nil {
		t.Error("the door has a certificate that nobody signed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- keeper.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	serves := func(addrs ...string) {
		t.Helper()
		keeper.Serve(show(addrs...))
		apitest.Eventually(t, fmt.Sprintf("the door serves at %v", addrs), func() error {
			pair, err := keeper.GetCertificate(nil)
			if err != nil {
				return err
			}
			for _, a := range append(addrs, "b") {
				if err := pair.Leaf.VerifyHostname(a); err != nil {
					return err
				}
			}
			_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: keeper.Pool()})
			return err
		})
	}
	serves("192.0.2.3")
	serves("192.0.2.4", "2001:db8::4")

	client, serving := serial(t, home, "client-current.pem"), serial(t, home, "serving-current.pem")
	// Its begin lies a third of its life before its issue, so it is due 5:33 after that.
	clk.Step(life / 2)
	apitest.Eventually(t, "both loops have looked", func() error {
		if n := clk.Waiters(); n < 2 {
			return fmt.Errorf("%d rest", n)
		}
		return nil
	})
	if again := serial(t, home, "client-current.pem"); again != client {
		t.Error("the client's certificate was renewed early")
	}
	clk.Step(life / 5)
	apitest.Eventually(t, "both certificates are renewed after two thirds of their life", func() error {
		if clk.Waiters() >= 2 { // both loops rest: a request takes none of this time
			clk.Step(time.Second) // whenever its timer was set
		}
		if client == serial(t, home, "client-current.pem") || serving == serial(t, home, "serving-current.pem") {
			return errors.New("they are the old ones")
		}
		if pair, err := keeper.GetCertificate(nil); err != nil || pair.Leaf.SerialNumber.String() == serving {
			return fmt.Errorf("the door shows the old certificate: %w", err)
		}
		return nil
	})
	if took := clk.Since(begin); took > life*3/2 {
		t.Errorf("they were renewed after %v of %v", took, life)
	}
	// What is on disk is what a start would begin with.
	fresh, err := kubernetes.NewForConfig(func() *rest.Config {
		c := home.Config(member)
		c.ServerName = "localhost"
		return c
	}())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.CoreV1().Nodes().Get(t.Context(), "b", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// A node takes away itself, and no other.
func TestNodeDeletesOnlyItself(t *testing.T) {
	t.Parallel()
	s := cluster(t)
	_, _, kube := join(t, s)
	for _, name := range []string{"a", "b"} {
		if _, err := s.Kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := kube.CoreV1().Nodes().Delete(t.Context(), "a", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("b deletes a: %v", err)
	}
	if err := kube.CoreV1().Nodes().DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("b deletes all: %v", err)
	}
	if err := kube.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Errorf("b deletes itself: %v", err)
	}
}

// What is half written is no identity, and damage is named.
func TestHome(t *testing.T) {
	t.Parallel()
	home := bootstrap.Home(t.TempDir())
	if m, err := home.Read(); m != nil || err != nil {
		t.Errorf("an empty folder: %v, %v", m, err)
	}
	for _, raw := range []string{"", "{", "{}", "[]"} {
		if err := os.WriteFile(filepath.Join(string(home), "member.json"), []byte(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := home.Read(); err == nil || !bytes.Contains([]byte(err.Error()), []byte("join again")) {
			t.Errorf("%q: %v", raw, err)
		}
	}
}
