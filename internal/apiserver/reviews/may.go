package reviews

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
)

// NewSelfAccess answers whether the asking user may do something: `kubectl auth can-i`.
func NewSelfAccess(decides authorizer.Authorizer) rest.Storage {
	return &review[*authorizationv1.SelfSubjectAccessReview]{
		singular: "selfsubjectaccessreview",
		empty:    func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} },
		check: func(r *authorizationv1.SelfSubjectAccessReview) error {
			return invalid("SelfSubjectAccessReview", validateAsked(r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes))
		},
		answer: func(ctx context.Context, r *authorizationv1.SelfSubjectAccessReview) error {
			u, err := whoAsks(ctx)
			if err == nil {
				r.Status = decide(ctx, decides, u, r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
			}
			return err
		},
	}
}

// NewAccess answers whether a given user may do something.
func NewAccess(decides authorizer.Authorizer) rest.Storage {
	return &review[*authorizationv1.SubjectAccessReview]{
		singular: "subjectaccessreview",
		empty:    func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} },
		check: func(r *authorizationv1.SubjectAccessReview) error {
			return invalid("SubjectAccessReview", validateSubject(&r.Spec))
		},
		answer: func(ctx context.Context, r *authorizationv1.SubjectAccessReview) error {
			r.Status = decide(ctx, decides, subject(&r.Spec), r.Spec.ResourceAttributes, r.Spec.NonResourceAttributes)
			return nil
		},
	}
}

// NewLocalAccess answers the same about one namespace, so that the right to ask can
// be given for it alone.
func NewLocalAccess(decides authorizer.Authorizer) rest.Storage {
	return &review[*authorizationv1.LocalSubjectAccessReview]{
		singular: "localsubjectaccessreview", namespaced: true,
		empty: func() *authorizationv1.LocalSubjectAccessReview { return &authorizationv1.LocalSubjectAccessReview{} },
		check: func(r *authorizationv1.LocalSubjectAccessReview) error {
			errs := validateSubject(&r.Spec)
			at := field.NewPath("spec")
			switch a := r.Spec.ResourceAttributes; {
			case r.Spec.NonResourceAttributes != nil:
				errs = append(errs, field.Invalid(at.Child("nonResourceAttributes"), r.Spec.NonResourceAttributes, "disallowed on this kind of request"))
			case a != nil && a.Namespace != r.Namespace:
				errs = append(errs, field.Invalid(at.Child("resourceAttributes", "namespace"), a.Namespace, "must match metadata.namespace"))
			}
			return invalid("LocalSubjectAccessReview", errs)
		},
		answer: func(ctx context.Context, r *authorizationv1.LocalSubjectAccessReview) error {
			r.Status = decide(ctx, decides, subject(&r.Spec), r.Spec.ResourceAttributes, nil)
			return nil
		},
	}
}

// NewSelfRules lists what the asking user may do in a namespace:
// `kubectl auth can-i --list`.
func NewSelfRules(rules authorizer.RuleResolver) rest.Storage {
	return &review[*authorizationv1.SelfSubjectRulesReview]{
		singular: "selfsubjectrulesreview",
		empty:    func() *authorizationv1.SelfSubjectRulesReview { return &authorizationv1.SelfSubjectRulesReview{} },
		check: func(r *authorizationv1.SelfSubjectRulesReview) error {
			if r.Spec.Namespace == "" {
				return apierrors.NewBadRequest("no namespace on request")
			}
			return nil
		},
		answer: func(ctx context.Context, r *authorizationv1.SelfSubjectRulesReview) error {
			u, err := whoAsks(ctx)
			if err != nil {
				return err
			}
			resources, paths, incomplete, err := rules.RulesFor(ctx, u, r.Spec.Namespace)
			r.Status = authorizationv1.SubjectRulesReviewStatus{
				ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete,
			}
			if err != nil {
				r.Status.EvaluationError = err.Error()
			}
			for _, rule := range resources {
				r.Status.ResourceRules = append(r.Status.ResourceRules, authorizationv1.ResourceRule{
					Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
				})
			}
			for _, rule := range paths {
				r.Status.NonResourceRules = append(r.Status.NonResourceRules, authorizationv1.NonResourceRule{
					Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs(),
				})
			}
			return nil
		},
	}
}

func decide(ctx context.Context, decides authorizer.Authorizer, u user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizationv1.SubjectAccessReviewStatus {
	decision, reason, err := decides.Authorize(ctx, attributes(u, resource, path))
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

// attributes are those of the request that is asked about. RBAC knows no selectors,
// so they don't count.
func attributes(u user.Info, resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) authorizer.Attributes {
	if resource == nil {
		return authorizer.AttributesRecord{User: u, Verb: path.Verb, Path: path.Path}
	}
	return authorizer.AttributesRecord{
		User: u, Verb: resource.Verb, Namespace: resource.Namespace, APIGroup: resource.Group, APIVersion: resource.Version,
		Resource: resource.Resource, Subresource: resource.Subresource, Name: resource.Name, ResourceRequest: true,
	}
}

func subject(s *authorizationv1.SubjectAccessReviewSpec) user.Info {
	u := &user.DefaultInfo{Name: s.User, UID: s.UID, Groups: s.Groups}
	for key, values := range s.Extra {
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = values
	}
	return u
}

func validateSubject(s *authorizationv1.SubjectAccessReviewSpec) field.ErrorList {
	errs := validateAsked(s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("spec", "user"), s.User, "at least one of user or group must be specified"))
	}
	return errs
}

func validateAsked(resource *authorizationv1.ResourceAttributes, path *authorizationv1.NonResourceAttributes) field.ErrorList {
	at := field.NewPath("spec")
	switch {
	case resource != nil && path != nil:
		return field.ErrorList{field.Invalid(at.Child("nonResourceAttributes"), path, "cannot be specified in combination with resourceAttributes")}
	case resource == nil && path == nil:
		return field.ErrorList{field.Invalid(at.Child("resourceAttributes"), resource, "exactly one of nonResourceAttributes or resourceAttributes must be specified")}
	}
	return nil
}

func invalid(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: authorizationv1.GroupName, Kind: kind}, "", errs)
}
