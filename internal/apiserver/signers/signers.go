// Package signers is the admission of certificate signing requests by their signer, as
// upstream's plugins CertificateApproval, CertificateSigning and
// CertificateSubjectRestriction: who may update requests may not therefore approve those of
// every signer. Approving takes the verb "approve", issuing the verb "sign", on the resource
// "signers" of certificates.k8s.io under the signer's name, or DOMAIN/* for all of a domain.
//
// In: writes of requests with their user. Out: forbidden, or nothing. It signs nothing:
// controllers/certificates does.
package signers

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Plugin is the admission. Decides says who may what.
type Plugin struct{ Decides authorizer.Authorizer }

var _ admission.ValidationInterface = (*Plugin)(nil)

// Handles implements admission.Interface.
func (*Plugin) Handles(op admission.Operation) bool {
	return op == admission.Create || op == admission.Update
}

// Validate implements admission.ValidationInterface.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != certificatesv1.Resource("certificatesigningrequests") {
		return nil
	}
	now, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("a request is a %T", a.GetObject()))
	}
	if a.GetOperation() == admission.Create {
		return refuseMasters(a, now)
	}
	old, ok := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("a request was a %T", a.GetOldObject()))
	}
	switch a.GetSubresource() {
	case "approval":
		return p.check(ctx, a, "approve", old.Spec.SignerName)
	case "status":
		// Others may note what they like of a request; its outcome is the signer's.
		if !equality.Semantic.DeepEqual(now.Status.Certificate, old.Status.Certificate) || failed(now) != failed(old) {
			return p.check(ctx, a, "sign", old.Spec.SignerName)
		}
	}
	return nil
}

func (p *Plugin) check(ctx context.Context, a admission.Attributes, verb, signer string) error {
	domain, _, _ := strings.Cut(signer, "/")
	var errs []error
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := p.Decides.Authorize(ctx, authorizer.AttributesRecord{
			User: a.GetUserInfo(), Verb: verb, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", Name: name, ResourceRequest: true,
		})
		if decision == authorizer.DecisionAllow {
			return nil
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return admission.NewForbidden(a, fmt.Errorf("ask who may %s for signer %q: %w", verb, signer, err))
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to %s requests with signerName %q", verb, signer))
}

func failed(csr *certificatesv1.CertificateSigningRequest) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
		return c.Type == certificatesv1.CertificateFailed
	})
}

// refuseMasters: a certificate of this group could never be taken back, for no role is what
// gives it its rights.
func refuseMasters(a admission.Attributes, csr *certificatesv1.CertificateSigningRequest) error {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return nil // validation says so
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil && slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
		return admission.NewForbidden(a, fmt.Errorf("use of %s signer with %s group is not allowed", csr.Spec.SignerName, user.SystemPrivilegedGroup))
	}
	return nil
}
