package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/core/rbac"
)

// DeniedError says that a certificate was refused, and why, in the words of who did.
type DeniedError struct{ Message string }

func (e *DeniedError) Error() string { return e.Message }

// watchRetry separates watches that end at once, as while a server restarts.
const watchRetry = time.Second

// asked is one kind of certificate that a node asks for.
type asked struct {
	signer string
	usages []certificatesv1.KeyUsage
}

var (
	clientCertificate = asked{certificatesv1.KubeAPIServerClientKubeletSignerName, []certificatesv1.KeyUsage{
		certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth,
	}}
	servingCertificate = asked{certificatesv1.KubeletServingSignerName, []certificatesv1.KeyUsage{
		certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth,
	}}
)

// RequestClient asks for the certificate by which a node is node, and waits for it until
// ctx ends. It gives the certificate and its new key in one PEM.
func RequestClient(ctx context.Context, kube kubernetes.Interface, node string) ([]byte, error) {
	return clientCertificate.request(ctx, kube, node, &x509.CertificateRequest{})
}

// RequestServing asks likewise for the certificate of the node's door at addrs.
func RequestServing(ctx context.Context, kube kubernetes.Interface, node string, addrs []netip.Addr) ([]byte, error) {
	template := &x509.CertificateRequest{DNSNames: []string{node}}
	for _, a := range addrs {
		template.IPAddresses = append(template.IPAddresses, a.AsSlice())
	}
	return servingCertificate.request(ctx, kube, node, template)
}

func (a asked) request(ctx context.Context, kube kubernetes.Interface, node string, template *x509.CertificateRequest) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for node %s: %w", node, err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key of node %s: %w", node, err)
	}
	template.Subject = pkix.Name{CommonName: rbac.NodeUserPrefix + node, Organization: []string{rbac.NodesGroup}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate request of node %s: %w", node, err)
	}
	csr, err := kube.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-" + node + "-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: a.signer, Usages: a.usages,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("ask for the certificate of node %s: %w", node, err)
	}
	cert, err := await(ctx, kube, csr)
	if err != nil {
		return nil, err
	}
	return append(cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...), nil
}

// await watches a request until it is answered.
func await(ctx context.Context, kube kubernetes.Interface, csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	api := kube.CertificatesV1().CertificateSigningRequests()
	for {
		w, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", csr.Name).String()})
		if err == nil {
			for event := range w.ResultChan() {
				now, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
				if !ok || now.UID != csr.UID {
					continue
				}
				if cert, err := answer(now); err != nil || cert != nil {
					w.Stop()
					return cert, err
				}
			}
			w.Stop()
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("nobody has answered the certificate request %s: do the server's controllers run?", csr.Name), context.Cause(ctx))
		case <-time.After(watchRetry):
		}
	}
}

// answer is the certificate, or why there will be none; neither: not yet.
func answer(csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	for _, c := range csr.Status.Conditions {
		if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
			return nil, &DeniedError{c.Message}
		}
	}
	if len(csr.Status.Certificate) == 0 {
		return nil, nil
	}
	return csr.Status.Certificate, nil
}
