package signers_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
)

// request makes a signing request for an organization.
func request(t *testing.T, organization string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{organization}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

// OPS-05: who may update requests approves those of the signers that it has the verb for,
// and issues none; nobody gets a certificate of system:masters.
func TestVerbsOfSigners(t *testing.T) {
	server := apitest.Start(t)
	cert, key, err := server.Authority.Client("jane", "approvers")
	if err != nil {
		t.Fatal(err)
	}
	jane, err := kubernetes.NewForConfig(&rest.Config{Host: server.Config.Host, TLSClientConfig: rest.TLSClientConfig{
		CAData: server.Authority.PEM(), CertData: cert, KeyData: key, ServerName: server.Config.ServerName,
	}})
	if err != nil {
		t.Fatal(err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "approver"}, Rules: []rbacv1.PolicyRule{
		{Verbs: []string{"get", "update"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests/approval", "certificatesigningrequests/status"}},
		{Verbs: []string{"approve"}, APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"signers"}, ResourceNames: []string{"example.com/one", "example.org/*"}},
	}}
	if _, err := server.Kube.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "approver"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "approver"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "approvers"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	requests := server.Kube.CertificatesV1().CertificateSigningRequests()
	for name, c := range map[string]struct {
		signer string
		may    bool
	}{
		"one":  {"example.com/one", true},
		"two":  {"example.com/two", false},
		"any":  {"example.org/whatever", true},
		"node": {certificatesv1.KubeAPIServerClientKubeletSignerName, false},
	} {
		csr, err := requests.Create(t.Context(), &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       certificatesv1.CertificateSigningRequestSpec{Request: request(t, "people"), SignerName: c.signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
		var approved *certificatesv1.CertificateSigningRequest
		apitest.Eventually(t, "the role counts", func() error {
			approved, err = jane.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), name, csr, metav1.UpdateOptions{})
			// Before it counts the refusal is that of all updates, not yet the signers'.
			if err != nil && (c.may || strings.Contains(err.Error(), "cannot update resource")) {
				return err
			}
			return nil
		})
		if !c.may {
			if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `user not permitted to approve requests with signerName "`+c.signer) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		approved.Status.Certificate = server.Authority.PEM()
		_, err = jane.CertificatesV1().CertificateSigningRequests().UpdateStatus(t.Context(), approved, metav1.UpdateOptions{})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "not permitted to sign") {
			t.Errorf("%s: issuing: %v", name, err)
		}
		if _, err := requests.UpdateStatus(t.Context(), approved, metav1.UpdateOptions{}); err != nil { // the administrator
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = requests.Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "masters"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request(t, "system:masters"), SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "system:masters group is not allowed") {
		t.Errorf("system:masters: %v", err)
	}
}
