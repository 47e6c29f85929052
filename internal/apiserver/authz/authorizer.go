package authz

import (
	"context"
	"errors"
	"fmt"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"portico.dev/portico/internal/core/rbac"
)

// Authorizer decides by the RBAC objects it has seen.
type Authorizer struct {
	mu     sync.RWMutex // guards the following
	policy *rbac.Policy
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New makes an authorizer that allows nothing until it follows a store.
func New() *Authorizer { return &Authorizer{policy: rbac.NewPolicy()} }

// Authorize implements authorizer.Authorizer. It never denies: what it doesn't know
// another authorizer may allow.
func (z *Authorizer) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "", errors.New("a request without a user")
	}
	r := &rbac.Request{Verb: a.GetVerb()}
	if a.IsResourceRequest() {
		r.Group, r.Resource, r.Subresource = a.GetAPIGroup(), a.GetResource(), a.GetSubresource()
		r.Namespace, r.Name = a.GetNamespace(), a.GetName()
	} else {
		r.Path = a.GetPath()
	}
	z.mu.RLock()
	ok, reason := z.policy.Allowed(asUser(u), r)
	z.mu.RUnlock()
	if ok {
		return authorizer.DecisionAllow, reason, nil
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: there are no conditions.
func (z *Authorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(z.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (z *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor implements authorizer.RuleResolver.
func (z *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	rules, err := z.rules(u, namespace)
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	for _, r := range rules {
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames,
			})
		}
		if len(r.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	return resources, paths, err != nil, err
}

// rules are all a user has in a namespace; the error names roles that are missing.
func (z *Authorizer) rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	z.mu.RLock()
	rules, missing := z.policy.Rules(asUser(u), namespace)
	z.mu.RUnlock()
	var errs []error
	for _, m := range missing {
		errs = append(errs, fmt.Errorf("%s not found", m))
	}
	return rules, errors.Join(errs...)
}

func asUser(u user.Info) rbac.User { return rbac.User{Name: u.GetName(), Groups: u.GetGroups()} }
