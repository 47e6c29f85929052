package tokens

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// The life of a token in seconds: what it is when nothing is asked for, and what may
// be asked for, as upstream.
const (
	defaultLife = 60 * 60
	minLife     = 10 * 60
	maxLife     = 1 << 32
)

var kind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// REST serves serviceaccounts/NAME/token.
type REST struct{ Issuer *Issuer }

var (
	_ rest.NamedCreater             = REST{}
	_ rest.GroupVersionKindProvider = REST{}
)

// New implements rest.Storage.
func (r REST) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Destroy implements rest.Storage.
func (r REST) Destroy() {}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (r REST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind { return kind }

// Create implements rest.NamedCreater: it signs a token for the account `name`.
func (r REST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("a TokenRequest is wanted, not a %T", obj))
	}
	namespace := request.NamespaceValue(ctx)
	account, err := r.account(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if req.Name == "" {
		req.Name = name
	}
	if req.Name != name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("metadata.name %q is not the account's name %q", req.Name, name))
	}
	req.Namespace = namespace
	if req.Spec.ExpirationSeconds == nil {
		life := int64(defaultLife)
		req.Spec.ExpirationSeconds = &life
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = r.Issuer.Audiences()
	}
	if errs := validateRequest(req); len(errs) > 0 {
		return nil, apierrors.NewInvalid(kind.GroupKind(), name, errs)
	}
	if validate != nil {
		if err := validate(ctx, obj); err != nil {
			return nil, err
		}
	}
	bound, err := r.bound(ctx, account, req.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	t, err := r.Issuer.sign(account, bound, req.Spec.Audiences, time.Duration(*req.Spec.ExpirationSeconds)*time.Second)
	if err != nil {
		return nil, err
	}
	audit.AddAuditAnnotation(ctx, serviceaccount.IssuedCredentialIDAuditAnnotationKey, "JTI="+t.id)
	answer := req.DeepCopy()
	answer.Status = authenticationv1.TokenRequestStatus{Token: t.token, ExpirationTimestamp: metav1.NewTime(t.expires)}
	return answer, nil
}

func validateRequest(req *authenticationv1.TokenRequest) (errs field.ErrorList) {
	at := field.NewPath("spec")
	switch life := *req.Spec.ExpirationSeconds; {
	case life < minLife:
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), life, "may not specify a duration less than 10 minutes"))
	case life > maxLife:
		errs = append(errs, field.Invalid(at.Child("expirationSeconds"), life, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(req.Spec.Attestations) > 0 {
		errs = append(errs, field.Forbidden(at.Child("attestations"), "this server attests nothing"))
	}
	if ref := req.Spec.BoundObjectRef; ref != nil {
		at := at.Child("boundObjectRef")
		if ref.APIVersion != "v1" || ref.Kind != "Pod" && ref.Kind != "Secret" && ref.Kind != "Node" {
			errs = append(errs, field.NotSupported(at.Child("kind"), ref.APIVersion+" "+ref.Kind, []string{"v1 Pod", "v1 Secret", "v1 Node"}))
		}
		if ref.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
	}
	return errs
}

func (r REST) account(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	obj, err := r.Issuer.lookup(ctx, "ServiceAccount", namespace, name, true)
	if err != nil {
		return nil, err
	}
	account, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("ServiceAccount %s/%s is a %T", namespace, name, obj))
	}
	return account, nil
}

// bound finds the object that the token is to live with.
func (r REST) bound(ctx context.Context, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (*binding, error) {
	if ref == nil {
		return nil, nil
	}
	namespace := account.Namespace
	if ref.Kind == "Node" {
		namespace = ""
	}
	obj, err := r.Issuer.lookup(ctx, ref.Kind, namespace, ref.Name, true)
	if err != nil {
		return nil, err
	}
	if ref.UID != "" && ref.UID != obj.GetUID() {
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: ref.Kind}, ref.Name,
			errors.New("the UID in the bound object reference ("+string(ref.UID)+") does not match the UID in record; the object might have been deleted and then recreated"))
	}
	b := &binding{kind: ref.Kind, object: obj}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return b, nil
	}
	runsAs := pod.Spec.ServiceAccountName
	if runsAs == "" {
		runsAs = "default"
	}
	if runsAs != account.Name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name", account.Name))
	}
	if pod.Spec.NodeName != "" {
		if node, err := r.Issuer.lookup(ctx, "Node", "", pod.Spec.NodeName, false); err == nil {
			b.node = &reference{node.GetName(), node.GetUID()}
		}
	}
	return b, nil
}
