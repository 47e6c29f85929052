package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Whatever bytes a request has: what is read as well-formed is a node's and no more.
func FuzzRead(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	for _, template := range []*x509.CertificateRequest{
		{Subject: pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes"}}},
		{Subject: pkix.Name{CommonName: "system:node:a", Organization: []string{"system:nodes"}}, DNSNames: []string{"a"}, IPAddresses: []net.IP{{192, 0, 2, 1}}},
		{Subject: pkix.Name{CommonName: "system:node:192.0.2.1", Organization: []string{"system:masters"}}},
	} {
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		for signer, usage := range map[string]certificatesv1.KeyUsage{
			certificatesv1.KubeAPIServerClientKubeletSignerName: certificatesv1.UsageClientAuth,
			certificatesv1.KubeletServingSignerName:             certificatesv1.UsageServerAuth,
		} {
			got, err := read(&certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
				Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
				SignerName: signer, Usages: []certificatesv1.KeyUsage{usage},
			}})
			if err != nil {
				continue
			}
			_, notAddress := netip.ParseAddr(got.node)
			if got.Subject.CommonName != "system:node:"+got.node || len(got.Subject.Organization) != 1 || got.Subject.Organization[0] != "system:nodes" ||
				len(validation.IsDNS1123Subdomain(got.node)) > 0 || notAddress == nil || len(got.EmailAddresses)+len(got.URIs) > 0 || got.CheckSignature() != nil {
				t.Errorf("%x is taken for a request of node %q", der, got.node)
			}
		}
	})
}
