package noderestriction

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	testclock "k8s.io/utils/clock/testing"
)

const (
	client  = certificatesv1.KubeAPIServerClientKubeletSignerName
	serving = certificatesv1.KubeletServingSignerName
)

var (
	nodeA = &user.DefaultInfo{Name: "system:node:a", Groups: []string{"system:nodes"}}
	host  = &user.DefaultInfo{Name: "system:bootstrap:abcdef", Groups: []string{"system:bootstrappers"}}
	jane  = &user.DefaultInfo{Name: "jane"}
)

// asks has somebody ask for a certificate.
func asks(t *testing.T, p *Plugin, who user.Info, signer, name string, padding int) error {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	raw := append([]byte(strings.Repeat("\n", padding)), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})...)
	csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{Request: raw, SignerName: signer}}
	return p.Validate(t.Context(), admission.NewAttributesRecord(csr, nil, certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"),
		"", "", certificatesv1.Resource("certificatesigningrequests").WithVersion("v1"), "", admission.Create, &metav1.CreateOptions{}, false, who), nil)
}

// A node asks for itself, a token for a node's client and nothing else, and neither
// leaves requests about for a person to approve by mistake.
func TestRequestsOfNodesAndTokens(t *testing.T) {
	p := New(testclock.NewFakePassiveClock(time.Now()))
	for what, c := range map[string]struct {
		who          user.Info
		signer, name string
		padding      int
		want         string // in the refusal; "": it may ask
	}{
		"a node's client":           {nodeA, client, "system:node:a", 0, ""},
		"a node's door":             {nodeA, serving, "system:node:a", 0, ""},
		"another node's client":     {nodeA, client, "system:node:b", 0, "of its own name"},
		"another node's door":       {nodeA, serving, "system:node:b", 0, "of its own name"},
		"another signer for a node": {nodeA, "example.com/any", "system:node:a", 0, "may only ask the signers"},
		"a host's client":           {host, client, "system:node:c", 0, ""},
		"a host's door":             {host, serving, "system:node:c", 0, "may only ask the signers"},
		"another signer for a host": {host, certificatesv1.KubeAPIServerClientSignerName, "admin", 0, "may only ask the signers"},
		"a heap of bytes":           {host, client, "system:node:c", maxRequest, "larger than"},
		"a person":                  {jane, "example.com/any", "whatever", maxRequest, ""},
	} {
		err := asks(t, p, c.who, c.signer, c.name, c.padding)
		if (err == nil) != (c.want == "") || err != nil && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// A flood of one user's ends at its limit, and touches nobody else's.
func TestFloodOfRequests(t *testing.T) {
	clk := testclock.NewFakePassiveClock(time.Now())
	p := New(clk)
	for i := range requestsAtOnce {
		if err := asks(t, p, host, client, "system:node:c", 0); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
	}
	err := asks(t, p, host, client, "system:node:c", 0)
	if wait, ok := apierrors.SuggestsClientDelay(err); !apierrors.IsTooManyRequests(err) || !ok || wait != 1 {
		t.Errorf("one more: %v", err)
	}
	if err := asks(t, p, nodeA, client, "system:node:a", 0); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	clk.SetTime(clk.Now().Add(time.Second))
	if err := asks(t, p, host, client, "system:node:c", 0); err != nil {
		t.Errorf("a second later: %v", err)
	}
}
