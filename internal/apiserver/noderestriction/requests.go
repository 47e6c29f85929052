package noderestriction

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/core/rbac"
)

const (
	// A node asks for two certificates a year and some more when its addresses change,
	// a token for one for each host. Requests are kept for an hour or a day, so this
	// bounds what one token or node can fill the store with to some ten megabytes.
	requestsAtOnce    = 100
	requestsPerSecond = 1
	// maxRequest is in bytes: an RSA key of 4096 bits makes a request of under 2 KiB.
	maxRequest = 16 << 10
)

// requests limits what hosts and nodes ask to be signed.
type requests struct {
	clock clock.PassiveClock

	mu sync.Mutex // guards the following
	// of are the limits of users. There are as many as tokens and nodes were made by
	// those who may.
	of map[string]flowcontrol.PassiveRateLimiter
}

// check lets a node ask for certificates of its own, and who holds a bootstrap token for
// that of a node's client. Whether a name is free is its signer's to know; what this
// refuses never lies there for a person to approve by mistake.
func (r *requests) check(a admission.Attributes) error {
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok || a.GetOperation() != admission.Create || a.GetSubresource() != "" {
		return nil
	}
	who := a.GetUserInfo()
	signers := []string{certificatesv1.KubeAPIServerClientKubeletSignerName}
	if isNode(who) {
		signers = append(signers, certificatesv1.KubeletServingSignerName)
	}
	switch {
	case len(csr.Spec.Request) > maxRequest:
		return admission.NewForbidden(a, fmt.Errorf("the request is larger than %d bytes", maxRequest))
	case !slices.Contains(signers, csr.Spec.SignerName):
		return admission.NewForbidden(a, fmt.Errorf("%s may only ask the signers %q", who.GetName(), signers))
	case isNode(who) && commonName(csr) != who.GetName():
		return admission.NewForbidden(a, fmt.Errorf("node %q may only ask for certificates of its own name", who.GetName()))
	case !r.limit(who.GetName()).TryAccept():
		return apierrors.NewTooManyRequests(fmt.Sprintf("%s asks for too many certificates", who.GetName()), 1)
	}
	return nil
}

func (r *requests) limit(name string) flowcontrol.PassiveRateLimiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[name] == nil {
		r.of[name] = flowcontrol.NewTokenBucketPassiveRateLimiterWithClock(requestsPerSecond, requestsAtOnce, r.clock)
	}
	return r.of[name]
}

func isNode(u user.Info) bool { return slices.Contains(u.GetGroups(), rbac.NodesGroup) }

// commonName is "" for what is no request.
func commonName(csr *certificatesv1.CertificateSigningRequest) string {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return ""
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return ""
	}
	return request.Subject.CommonName
}
