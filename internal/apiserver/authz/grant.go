package authz

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"portico.dev/portico/internal/core/rbac"
)

// Grants keeps people from giving away what they don't have. Decides is the whole
// server's authorizer, which knows who may `escalate` and `bind` nevertheless.
type Grants struct {
	Rules   *Authorizer
	Decides authorizer.Authorizer
}

// shownRules is how many missing rules an error lists: the first ones tell enough.
const shownRules = 20

// CheckRules is for writing a role: its writer must have all its rules in that
// namespace, or may escalate it.
func (g *Grants) CheckRules(ctx context.Context, resource, namespace, name string, rules []rbacv1.PolicyRule) error {
	u, all, err := g.who(ctx)
	if err != nil || all || g.may(ctx, u, "escalate", resource, namespace, name) {
		return err
	}
	return g.covered(u, resource, namespace, name, rules)
}

// CheckBind is for writing a binding: its writer may bind that role, or has all its
// rules where the binding holds.
func (g *Grants) CheckBind(ctx context.Context, resource, namespace, name string, role rbacv1.RoleRef) error {
	u, all, err := g.who(ctx)
	if err != nil || all {
		return err
	}
	target := rbac.RoleOf(namespace, role)
	kind := "clusterroles"
	if target.Namespace != "" {
		kind = "roles"
	}
	if g.may(ctx, u, "bind", kind, namespace, target.Name) {
		return nil
	}
	g.Rules.mu.RLock()
	rules, found := g.Rules.policy.Role(target)
	g.Rules.mu.RUnlock()
	if !found {
		return apierrors.NewNotFound(rbacv1.Resource(kind), target.Name)
	}
	return g.covered(u, resource, namespace, name, rules)
}

// who is the user of a request; all tells that it may do everything.
func (g *Grants) who(ctx context.Context) (u user.Info, all bool, err error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, false, apierrors.NewInternalError(errors.New("a request without a user"))
	}
	return u, slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup), nil
}

func (g *Grants) may(ctx context.Context, u user.Info, verb, resource, namespace, name string) bool {
	decision, _, _ := g.Decides.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, APIGroup: rbacv1.GroupName, APIVersion: "v1", Resource: resource,
		Namespace: namespace, Name: name, ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow
}

func (g *Grants) covered(u user.Info, resource, namespace, name string, wanted []rbacv1.PolicyRule) error {
	owned, _ := g.Rules.rules(u, namespace) // what doesn't exist grants nothing
	missing := rbac.Missing(owned, wanted)
	if len(missing) == 0 {
		return nil
	}
	lines := make([]string, 0, shownRules+1)
	for i, r := range missing {
		if i == shownRules {
			lines = append(lines, fmt.Sprintf("and %d more", len(missing)-i))
			break
		}
		lines = append(lines, compact(&r))
	}
	return apierrors.NewForbidden(rbacv1.Resource(resource), name, fmt.Errorf(
		"user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s", u.GetName(), u.GetGroups(), strings.Join(lines, "\n")))
}

// compact writes a rule as upstream does in this error, without empty parts.
func compact(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups},
		{"Resources", r.Resources},
		{"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames},
		{"Verbs", r.Verbs},
	} {
		if len(p.values) > shownRules {
			p.values = append(slices.Clone(p.values[:shownRules]), "...")
		}
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
