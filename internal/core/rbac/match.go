package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Request is what a user asks for: a verb on a resource, or on a path that belongs
// to no resource, such as /version.
type Request struct {
	Verb                         string
	Group, Resource, Subresource string
	Namespace, Name              string // empty: in no namespace, for no particular object
	Path                         string // of a request for no resource; empty for others
}

// Allows reports whether a rule allows a request. Where the rule holds, in one
// namespace or in all, is its binding's matter.
func Allows(rule *rbacv1.PolicyRule, r *Request) bool {
	if !has(rule.Verbs, r.Verb, rbacv1.VerbAll) {
		return false
	}
	if r.Path != "" {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return coversPath(pattern, r.Path) })
	}
	return has(rule.APIGroups, r.Group, rbacv1.APIGroupAll) && coversResource(rule.Resources, r.Resource, r.Subresource) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, r.Name))
}

func has(list []string, value, all string) bool {
	return slices.Contains(list, value) || slices.Contains(list, all)
}

// coversResource knows the four forms: "*", "pods", "pods/log" and "*/scale".
func coversResource(list []string, resource, sub string) bool {
	for _, r := range list {
		switch {
		case r == rbacv1.ResourceAll:
			return true
		case sub == "":
			if r == resource {
				return true
			}
		default:
			if of, s, ok := strings.Cut(r, "/"); ok && s == sub && (of == resource || of == "*") {
				return true
			}
		}
	}
	return false
}

// coversPath takes a path as it is, or with "*" at its end for all that begin so.
func coversPath(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}
