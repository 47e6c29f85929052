package certificates

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"portico.dev/portico/internal/core/rbac"
)

// minRSA is the shortest RSA key that is signed, in bits.
const minRSA = 2048

// form is what a well-formed request asks for.
type form struct {
	*x509.CertificateRequest
	node    string
	purpose x509.ExtKeyUsage
}

// forms are the requests that are served, by signer.
var forms = map[string]struct {
	usages  []certificatesv1.KeyUsage // allowed
	needed  certificatesv1.KeyUsage
	purpose x509.ExtKeyUsage
}{
	certificatesv1.KubeAPIServerClientKubeletSignerName: {
		[]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth},
		certificatesv1.UsageClientAuth, x509.ExtKeyUsageClientAuth,
	},
	certificatesv1.KubeletServingSignerName: {
		[]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth},
		certificatesv1.UsageServerAuth, x509.ExtKeyUsageServerAuth,
	},
}

// read checks all that needs no look at the cluster: upstream's rules of both signers.
func read(csr *certificatesv1.CertificateSigningRequest) (*form, error) {
	rules := forms[csr.Spec.SignerName]
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return nil, errors.New("the request isn't PEM")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the request can't be parsed: %w", err)
	}
	node, ok := strings.CutPrefix(request.Subject.CommonName, rbac.NodeUserPrefix)
	f := &form{request, node, rules.purpose}
	switch {
	case !ok || !slices.Equal(request.Subject.Organization, []string{rbac.NodesGroup}):
		return nil, fmt.Errorf("a node's name in certificates is %sNAME, of the one organization %s; this is %q of %q",
			rbac.NodeUserPrefix, rbac.NodesGroup, request.Subject.CommonName, request.Subject.Organization)
	case len(validation.IsDNS1123Subdomain(node)) > 0 || isAddress(node):
		return nil, fmt.Errorf("%q can't name a node: give a DNS name in lower case", node)
	case !slices.Contains(csr.Spec.Usages, rules.needed):
		return nil, fmt.Errorf("the usage %q is missing", rules.needed)
	case slices.ContainsFunc(csr.Spec.Usages, func(u certificatesv1.KeyUsage) bool { return !slices.Contains(rules.usages, u) }):
		return nil, fmt.Errorf("the usages may be %q, and these are %q", rules.usages, csr.Spec.Usages)
	case len(request.EmailAddresses)+len(request.URIs) > 0:
		return nil, errors.New("a node's certificate has no e-mail addresses or URIs")
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the request isn't signed by its own key: %w", err)
	}
	return f, errors.Join(f.names(), f.strong())
}

// isAddress: digits and dots pass for a DNS name, too.
func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// names checks what the certificate would be good for besides its common name.
func (f *form) names() error {
	count := len(f.DNSNames) + len(f.IPAddresses)
	switch {
	case f.purpose == x509.ExtKeyUsageClientAuth && count > 0:
		return errors.New("a client's certificate has no DNS names or addresses")
	case f.purpose == x509.ExtKeyUsageServerAuth && count == 0:
		return errors.New("a server's certificate needs an address or a DNS name")
	}
	for _, name := range f.DNSNames {
		if name != f.node {
			return fmt.Errorf("the only DNS name that node %s may have is its own, not %q", f.node, name)
		}
	}
	return nil
}

func (f *form) strong() error {
	switch key := f.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < minRSA {
			return fmt.Errorf("an RSA key of %d bits is too short; %d are enough", key.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return fmt.Errorf("keys of the kind %T aren't signed", key)
	}
	return nil
}
