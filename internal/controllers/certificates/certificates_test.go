package certificates_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	testclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/certificates"
	"portico.dev/portico/internal/controllers/system"
)

const (
	client  = certificatesv1.KubeAPIServerClientKubeletSignerName
	serving = certificatesv1.KubeletServingSignerName

	bootstrappers = "system:bootstrappers:portico:nodes"
	nodes         = "system:nodes"
)

// world is an API server with the controller.
type world struct {
	*testing.T
	*apitest.Server
	clock *testclock.FakeClock
}

func newWorld(t *testing.T, leaders int) *world {
	t.Helper()
	w := &world{t, apitest.Start(t), testclock.NewFakeClock(time.Now())}
	w.must(system.Bootstrap(t.Context(), w.Kube, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for range leaders {
		running.Go(func() {
			err := certificates.Run(ctx, certificates.Deps{
				Client: w.Kube, Signer: w.Authority, Clock: w.clock, Log: slog.New(slog.DiscardHandler),
				Reserved: []string{"localhost", "kubernetes"}, Domain: "example.test", Ranges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("10.245.0.0/16")},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// as is a client of who has a certificate for a name and groups.
func (w *world) as(user string, groups ...string) kubernetes.Interface {
	w.Helper()
	cert, key, err := w.Authority.Client(user, groups...)
	w.must(err)
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: w.Config.Host, TLSClientConfig: rest.TLSClientConfig{
		CAData: w.Authority.PEM(), CertData: cert, KeyData: key, ServerName: "localhost",
	}})
	w.must(err)
	return kube
}

// node makes a Node with addresses; unknown, as one that is silent.
func (w *world) node(name string, unknown bool, addrs ...string) {
	w.Helper()
	n, err := w.Kube.CoreV1().Nodes().Create(w.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	w.must(err)
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	ready := corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}
	if unknown {
		ready.Status = corev1.ConditionUnknown
	}
	n.Status.Conditions = []corev1.NodeCondition{ready}
	_, err = w.Kube.CoreV1().Nodes().UpdateStatus(w.Context(), n, metav1.UpdateOptions{})
	w.must(err)
}

// asked is what somebody asks for; the zero fields are those of a good node's client.
type asked struct {
	signer, name, organization string
	dns                        []string
	ips                        []string
	usages                     []certificatesv1.KeyUsage
	life                       time.Duration
	key                        crypto.Signer
}

func (w *world) ask(kube kubernetes.Interface, a asked) *certificatesv1.CertificateSigningRequest {
	w.Helper()
	if a.key == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		w.must(err)
		a.key = key
	}
	if a.organization == "" {
		a.organization = nodes
	}
	if a.signer == "" {
		a.signer = client
	}
	if a.usages == nil {
		purpose := certificatesv1.UsageClientAuth
		if a.signer == serving {
			purpose = certificatesv1.UsageServerAuth
		}
		a.usages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, purpose}
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: a.name, Organization: []string{a.organization}}, DNSNames: a.dns}
	for _, s := range a.ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(s))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, a.key)
	w.must(err)
	csr := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: a.signer, Usages: a.usages,
		},
	}
	if a.life > 0 {
		seconds := int32(a.life.Seconds())
		csr.Spec.ExpirationSeconds = &seconds
	}
	csr, err = kube.CertificatesV1().CertificateSigningRequests().Create(w.Context(), csr, metav1.CreateOptions{})
	w.must(err)
	return csr
}

// answered waits for a request's certificate or refusal.
func (w *world) answered(csr *certificatesv1.CertificateSigningRequest) (cert *x509.Certificate, refusal string) {
	w.Helper()
	apitest.Eventually(w.T, "request "+csr.Name+" is answered", func() (err error) {
		if csr, err = w.Kube.CertificatesV1().CertificateSigningRequests().Get(w.Context(), csr.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		for _, c := range csr.Status.Conditions {
			if c.Type != certificatesv1.CertificateApproved {
				refusal = string(c.Type) + ": " + c.Message
				return nil
			}
		}
		if len(csr.Status.Certificate) == 0 {
			return fmt.Errorf("it has the conditions %v", csr.Status.Conditions)
		}
		return nil
	})
	if refusal == "" {
		block, _ := pem.Decode(csr.Status.Certificate)
		var err error
		cert, err = x509.ParseCertificate(block.Bytes)
		w.must(err)
	}
	return cert, refusal
}

// OPS-05: who may have a node's certificate gets it, and who may not is told why; two
// controllers that think that they lead do no harm.
func TestRequests(t *testing.T) {
	w := newWorld(t, 2)
	w.node("a", false, "192.0.2.1")
	w.node("gone", true, "192.0.2.9")
	w.node("b", false, "192.0.2.2", "2001:db8::2")
	port := int32(6443)
	_, err := w.Kube.DiscoveryV1().EndpointSlices("default").Create(w.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "kubernetes", Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"192.0.2.100"}}},
	}, metav1.CreateOptions{})
	w.must(err)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	w.must(err)
	host, b := w.as("system:bootstrap:abcdef", "system:bootstrappers", bootstrappers), w.as("system:node:b", nodes)
	server := func(ips ...string) asked {
		return asked{signer: serving, name: "system:node:b", dns: []string{"b"}, ips: ips}
	}
	for name, c := range map[string]struct {
		who  kubernetes.Interface
		what asked
		want string // in the refusal; "": it gets it
	}{
		"a host with a token":         {host, asked{name: "system:node:c"}, ""},
		"the place of a silent node":  {host, asked{name: "system:node:gone"}, ""},
		"the name of a living node":   {host, asked{name: "system:node:a"}, `"a" is used by another host, which is alive`},
		"a name of the API server":    {host, asked{name: "system:node:localhost"}, "a name of the API server"},
		"an administrator's group":    {host, asked{name: "system:node:d", organization: "system:masters"}, "of the one organization system:nodes"},
		"a person's name":             {host, asked{name: "admin"}, "a node's name in certificates is"},
		"no DNS name":                 {host, asked{name: "system:node:No!"}, "can't name a node"},
		"an address as its name":      {host, asked{name: "system:node:192.0.2.7"}, "can't name a node"},
		"a Service's short name":      {host, asked{name: "system:node:web.default.svc"}, "is a name of the cluster's own"},
		"a Service's name":            {host, asked{name: "system:node:web.default.svc.example.test"}, "is a name of the cluster's own"},
		"a client with addresses":     {host, asked{name: "system:node:d", ips: []string{"192.0.2.4"}}, "has no DNS names or addresses"},
		"a client that serves":        {host, asked{name: "system:node:d", usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth}}, "the usages may be"},
		"a client's without its use":  {host, asked{name: "system:node:d", usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature}}, `"client auth" is missing`},
		"a weak key":                  {host, asked{name: "system:node:d", key: weak}, "1024 bits is too short"},
		"a node that renews":          {b, asked{name: "system:node:b"}, ""},
		"a node's door":               {b, server("192.0.2.2", "2001:db8::2"), ""},
		"another node's address":      {b, server("192.0.2.2", "192.0.2.1"), "192.0.2.1 is that of node a"},
		"the API's address":           {b, server("192.0.2.100"), "192.0.2.100 is that of the API server"},
		"a cluster IP":                {b, server("10.96.0.1"), "10.96.0.1 is no address of a node"},
		"a guest's address":           {b, server("10.245.0.3"), "10.245.0.3 is no address of a node"},
		"loopback":                    {b, server("127.0.0.1"), "127.0.0.1 is no address of a node"},
		"another DNS name":            {b, asked{signer: serving, name: "system:node:b", dns: []string{"a"}, ips: []string{"192.0.2.2"}}, "the only DNS name"},
		"a door that is nowhere":      {b, asked{signer: serving, name: "system:node:b"}, "needs an address or a DNS name"},
		"as short as was asked, once": {b, asked{name: "system:node:b", life: 10 * time.Minute}, ""},
	} {
		cert, refusal := w.answered(w.ask(c.who, c.what))
		if (refusal == "") != (c.want == "") || !strings.Contains(refusal, c.want) {
			t.Errorf("%s: refusal %q, want %q", name, refusal, c.want)
			continue
		}
		if cert == nil {
			continue
		}
		purpose := x509.ExtKeyUsageClientAuth
		if c.what.signer == serving {
			purpose = x509.ExtKeyUsageServerAuth
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: w.Authority.Pool(), KeyUsages: []x509.ExtKeyUsage{purpose}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if cert.Subject.CommonName != c.what.name || len(cert.ExtKeyUsage) != 1 || cert.IsCA || len(cert.IPAddresses) != len(c.what.ips) {
			t.Errorf("%s: got %v for %v", name, cert.Subject, cert.ExtKeyUsage)
		}
		if left := time.Until(cert.NotAfter); c.what.life > 0 && left > c.what.life {
			t.Errorf("%s: it lives %v", name, left)
		}
	}
}

// One name is given to one host, also while that has no Node yet.
func TestNameIsGivenOnce(t *testing.T) {
	w := newWorld(t, 1)
	host := w.as("system:bootstrap:abcdef", bootstrappers)
	const hosts = 5
	var csrs []*certificatesv1.CertificateSigningRequest
	for range hosts {
		csrs = append(csrs, w.ask(host, asked{name: "system:node:n"}))
	}
	given := 0
	for _, csr := range csrs {
		if cert, refusal := w.answered(csr); cert != nil {
			given++
		} else if !strings.Contains(refusal, "given to another host a moment ago") {
			t.Errorf("refused because %q", refusal)
		}
	}
	if given != 1 {
		t.Errorf("%d of %d hosts have the name", given, hosts)
	}
	w.clock.Step(time.Minute) // the host never came
	if _, refusal := w.answered(w.ask(host, asked{name: "system:node:n"})); refusal != "" {
		t.Errorf("a minute later: %s", refusal)
	}
}

// A clock that jumps by an hour, either way, keeps no host out, and gives no name twice.
func TestClockJumps(t *testing.T) {
	w := newWorld(t, 1)
	host := w.as("system:bootstrap:abcdef", bootstrappers)
	for i, jump := range []time.Duration{-time.Hour, 2 * time.Hour, -time.Hour} {
		name := fmt.Sprintf("system:node:n%d", i)
		if cert, refusal := w.answered(w.ask(host, asked{name: name})); cert == nil {
			t.Errorf("before the jump by %v: %s", jump, refusal)
		}
		if cert, refusal := w.answered(w.ask(host, asked{name: name})); cert != nil || !strings.Contains(refusal, "a moment ago") {
			t.Errorf("before the jump by %v: a name was given twice: %q", jump, refusal)
		}
		w.clock.SetTime(w.clock.Now().Add(jump))
	}
	w.node("alive", false, "203.0.113.1")
	if cert, refusal := w.answered(w.ask(host, asked{name: "system:node:alive"})); cert != nil || !strings.Contains(refusal, "which is alive") {
		t.Errorf("the name of a living node: %q", refusal)
	}
}

// Requests of a node that has left go soon, and nobody else's; a range of cluster IPs that
// was added later has no node's door either.
func TestNodeLeaves(t *testing.T) {
	w := newWorld(t, 1)
	host := w.as("system:bootstrap:abcdef", bootstrappers)
	csrs := map[string]*certificatesv1.CertificateSigningRequest{}
	for i, name := range []string{"leaves", "stays"} {
		csrs[name] = w.ask(host, asked{name: "system:node:" + name})
		if _, refusal := w.answered(csrs[name]); refusal != "" {
			t.Fatal(refusal)
		}
		w.node(name, false, fmt.Sprintf("203.0.113.%d", i+1))
	}
	_, err := w.Kube.NetworkingV1().ServiceCIDRs().Create(t.Context(), &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"203.0.113.0/24"}},
	}, metav1.CreateOptions{})
	w.must(err)
	door := w.ask(w.as("system:node:stays", nodes), asked{signer: serving, name: "system:node:stays", ips: []string{"203.0.113.2"}})
	if cert, refusal := w.answered(door); cert != nil || !strings.Contains(refusal, "203.0.113.2") {
		t.Errorf("a door at an address of a later range: %v, %q", cert, refusal)
	}

	api := w.Kube.CertificatesV1().CertificateSigningRequests()
	w.clock.Step(2 * time.Minute)
	w.must(w.Kube.CoreV1().Nodes().Delete(t.Context(), "leaves", metav1.DeleteOptions{}))
	apitest.Eventually(t, "its request is forgotten", func() error {
		if _, err := api.Get(t.Context(), csrs["leaves"].Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	if _, err := api.Get(t.Context(), csrs["stays"].Name, metav1.GetOptions{}); err != nil {
		t.Errorf("the other's: %v", err)
	}
}

// What nobody may have by itself waits for a person; whom a person approves gets a node's
// identity at most, and old requests go.
func TestPeopleDecide(t *testing.T) {
	w := newWorld(t, 1)
	jane := w.as("admin", "system:masters")
	api := w.Kube.CertificatesV1().CertificateSigningRequests()
	csr := w.ask(w.as("jane-without-rights", "system:masters"), asked{signer: serving, name: "system:node:x", dns: []string{"x"}})
	early, err := api.Get(w.Context(), csr.Name, metav1.GetOptions{})
	w.must(err)
	early.Status.Conditions = append(early.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Jane", Message: "she knows the host", LastUpdateTime: metav1.Now(),
	})
	_, err = jane.CertificatesV1().CertificateSigningRequests().UpdateApproval(w.Context(), csr.Name, early, metav1.UpdateOptions{})
	w.must(err)
	if cert, refusal := w.answered(csr); cert == nil {
		t.Errorf("approved by hand: %s", refusal)
	}
	other := w.ask(jane, asked{signer: "example.com/other", name: "anybody"})
	waits := w.ask(w.as("somebody", "system:masters"), asked{signer: serving, name: "system:node:y", dns: []string{"y"}})
	w.clock.Step(2 * time.Hour)
	apitest.Eventually(t, "the answered request is forgotten", func() error {
		if _, err := api.Get(w.Context(), csr.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	if now, err := api.Get(w.Context(), waits.Name, metav1.GetOptions{}); err != nil || len(now.Status.Conditions) > 0 {
		t.Errorf("the one that waits for a person: %v, %v", now.Status.Conditions, err)
	}
	w.clock.Step(23 * time.Hour)
	apitest.Eventually(t, "the pending request is forgotten", func() error {
		if _, err := api.Get(w.Context(), waits.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
	if now, err := api.Get(w.Context(), other.Name, metav1.GetOptions{}); err != nil || len(now.Status.Conditions) > 0 {
		t.Errorf("another signer's request was touched: %v, %v", now, err)
	}
}
