package kinds

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"strconv"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"

	"portico.dev/portico/internal/apiserver/registry"
)

func signingRequestKind() registry.Kind[*certificatesv1.CertificateSigningRequest] {
	k := registry.Stored[certificatesv1.CertificateSigningRequest, certificatesv1.CertificateSigningRequestList](certificatesv1.SchemeGroupVersion, "certificatesigningrequests", "certificatesigningrequest", registry.InCluster, "csr").
		Checked(validateSigningRequest).
		Printed(func(r *certificatesv1.CertificateSigningRequest) []any {
			lifetime := "<none>"
			if s := r.Spec.ExpirationSeconds; s != nil {
				lifetime = strconv.Itoa(int(*s)) + "s"
			}
			return []any{r.Spec.SignerName, r.Spec.Username, lifetime, signingState(r)}
		}, registry.Column("SignerName", "Who is asked to sign."), registry.Column("Requestor", "Who asks."),
			registry.Column("RequestedDuration", "How long the certificate is to hold."), registry.Column("Condition", "How far it got."))
	k.Fields = func(r *certificatesv1.CertificateSigningRequest) fields.Set {
		return fields.Set{"spec.signerName": r.Spec.SignerName}
	}
	k.Rules.Warnings = func(r, old *certificatesv1.CertificateSigningRequest) []string {
		switch r.Spec.SignerName {
		case certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName:
			return nil
		}
		if old != nil {
			return nil
		}
		return []string{unserved("certificate signing requests for other signers than nodes'", "a kube-controller-manager")}
	}
	// The spec says who asked for what; nobody may alter that afterwards.
	k.Rules.PrepareUpdate = func(r, old *certificatesv1.CertificateSigningRequest) { r.Spec = old.Spec }
	return k
}

func validateSigningRequest(r *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	block, _ := pem.Decode(r.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		errs = append(errs, field.Invalid(path.Child("request"), r.Spec.Request, "PEM block type must be CERTIFICATE REQUEST"))
	} else if _, err := x509.ParseCertificateRequest(block.Bytes); err != nil {
		errs = append(errs, field.Invalid(path.Child("request"), r.Spec.Request, err.Error()))
	}
	if r.Spec.SignerName == "" {
		errs = append(errs, field.Required(path.Child("signerName"), ""))
	}
	if len(r.Spec.Usages) == 0 {
		errs = append(errs, field.Required(path.Child("usages"), "usages is required"))
	}
	if s := r.Spec.ExpirationSeconds; s != nil && *s < 600 {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

func signingState(r *certificatesv1.CertificateSigningRequest) string {
	state := "Pending"
	for _, c := range r.Status.Conditions {
		if c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied {
			state = string(c.Type)
		}
	}
	for _, c := range r.Status.Conditions {
		if c.Type == certificatesv1.CertificateFailed {
			state += "," + string(c.Type)
		}
	}
	if len(r.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}

// buildSigningRequests serves certificatesigningrequests with their two further
// doors: /approval writes conditions, /status the certificate.
func buildSigningRequests(s registry.Set, scheme *runtime.Scheme, options generic.RESTOptionsGetter) error {
	main, status, err := registry.Add(s, scheme, options, signingRequestKind())
	if err != nil {
		return err
	}
	gv := certificatesv1.SchemeGroupVersion
	s.Put(gv, "certificatesigningrequests", &signingStorage{main})
	approval := *main.Store
	approval.UpdateStrategy = approvalStrategy{status.Store.UpdateStrategy}
	s.Put(gv, "certificatesigningrequests/approval", &registry.StatusStorage{Store: &approval})
	closed := *status.Store
	closed.UpdateStrategy = issueStrategy{status.Store.UpdateStrategy}
	s.Put(gv, "certificatesigningrequests/status", &registry.StatusStorage{Store: &closed})
	return nil
}

// signingStorage notes who asks: signers decide by it.
type signingStorage struct{ *registry.Storage }

func (s *signingStorage) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	request := obj.(*certificatesv1.CertificateSigningRequest)
	request.Spec.Username, request.Spec.UID, request.Spec.Groups, request.Spec.Extra = "", "", nil, nil
	if who, ok := genericrequest.UserFrom(ctx); ok {
		request.Spec.Username, request.Spec.UID, request.Spec.Groups = who.GetName(), who.GetUID(), who.GetGroups()
		for key, value := range who.GetExtra() {
			if request.Spec.Extra == nil {
				request.Spec.Extra = map[string]certificatesv1.ExtraValue{}
			}
			request.Spec.Extra[key] = certificatesv1.ExtraValue(value)
		}
	}
	return s.Storage.Create(ctx, request, validate, options)
}

var _ rest.Creater = (*signingStorage)(nil)

// approvalStrategy lets only conditions be written.
type approvalStrategy struct{ rest.RESTUpdateStrategy }

func (a approvalStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	request, was := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	a.RESTUpdateStrategy.PrepareForUpdate(ctx, obj, old)
	request.Status.Certificate = was.Status.Certificate
}

// issueStrategy keeps approvals out: those who sign aren't those who allow.
type issueStrategy struct{ rest.RESTUpdateStrategy }

func (i issueStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	errs := i.RESTUpdateStrategy.ValidateUpdate(ctx, obj, old)
	if !equality.Semantic.DeepEqual(verdicts(obj), verdicts(old)) {
		errs = append(errs, field.Forbidden(field.NewPath("status", "conditions"), "Approved and Denied are written through /approval"))
	}
	return errs
}

func verdicts(obj runtime.Object) map[certificatesv1.RequestConditionType]string {
	out := map[certificatesv1.RequestConditionType]string{}
	for _, c := range obj.(*certificatesv1.CertificateSigningRequest).Status.Conditions {
		if c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied {
			out[c.Type] = string(c.Status) + c.Reason
		}
	}
	return out
}
