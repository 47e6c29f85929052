package reviews

import (
	"context"
	"errors"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// NewSelf answers who the asking user is: `kubectl auth whoami`.
func NewSelf() rest.Storage {
	return &review[*authenticationv1.SelfSubjectReview]{
		singular: "selfsubjectreview",
		empty:    func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} },
		answer: func(ctx context.Context, r *authenticationv1.SelfSubjectReview) error {
			u, err := whoAsks(ctx)
			if err == nil {
				r.Status = authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(u)}
				r.CreationTimestamp = metav1.Now()
			}
			return err
		},
	}
}

// NewToken answers who a token belongs to, for servers that are given one.
func NewToken(tokens authenticator.Token, own authenticator.Audiences) rest.Storage {
	return &review[*authenticationv1.TokenReview]{
		singular: "tokenreview",
		empty:    func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} },
		check: func(r *authenticationv1.TokenReview) error {
			if r.Spec.Token == "" {
				return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenReview").GroupKind(), r.Name,
					field.ErrorList{field.Required(field.NewPath("spec", "token"), "")})
			}
			return nil
		},
		answer: func(ctx context.Context, r *authenticationv1.TokenReview) error {
			wanted := authenticator.Audiences(r.Spec.Audiences)
			if len(wanted) == 0 {
				wanted = own
			}
			response, ok, err := tokens.AuthenticateToken(authenticator.WithAudiences(ctx, wanted), r.Spec.Token)
			r.Status = authenticationv1.TokenReviewStatus{Authenticated: ok}
			if err != nil {
				r.Status.Error = err.Error()
			}
			if ok && response != nil {
				r.Status.User, r.Status.Audiences = userInfo(response.User), response.Audiences
			}
			return nil
		},
	}
}

func whoAsks(ctx context.Context) (user.Info, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("a request without a user"))
	}
	return u, nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return info
}
