package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// maxAtoms bounds the work that one written role can cause: its rules multiply
// verbs, groups, resources and names. The largest role in use has some hundred.
const maxAtoms = 100_000

// Missing gives what the wanted rules allow and the owned ones don't, as rules of
// one verb each; nothing where all is covered. A part must be covered by one owned
// rule alone, so that the answer is never more than what holds.
func Missing(owned, wanted []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var missing []rbacv1.PolicyRule
	covered := func(w *rbacv1.PolicyRule) bool {
		return slices.ContainsFunc(owned, func(o rbacv1.PolicyRule) bool { return covers(&o, w) })
	}
	left := maxAtoms
	for i := range wanted {
		w := &wanted[i]
		if covered(w) {
			continue // one rule, such as an administrator's, covers all of it
		}
		n := atoms(w)
		if n > left {
			missing = append(missing, *w) // too large to look into: refused as a whole
			continue
		}
		left -= n
		split(w, func(atom *rbacv1.PolicyRule) {
			if !covered(atom) {
				missing = append(missing, *atom)
			}
		})
	}
	return missing
}

// covers reports whether one rule allows all that another does.
func covers(owned, wanted *rbacv1.PolicyRule) bool {
	if !within(wanted.Verbs, owned.Verbs) {
		return false
	}
	for _, path := range wanted.NonResourceURLs {
		if !slices.ContainsFunc(owned.NonResourceURLs, func(pattern string) bool { return coversPath(pattern, path) }) {
			return false
		}
	}
	if len(wanted.APIGroups)+len(wanted.Resources) == 0 {
		return len(wanted.NonResourceURLs) > 0
	}
	if !within(wanted.APIGroups, owned.APIGroups) {
		return false
	}
	for _, r := range wanted.Resources {
		resource, sub, _ := strings.Cut(r, "/")
		// "*/scale" is covered by itself and by "*", never by a list of resources.
		if !slices.Contains(owned.Resources, r) && !coversResource(owned.Resources, resource, sub) {
			return false
		}
	}
	if len(owned.ResourceNames) == 0 {
		return true
	}
	// "*" is no wildcard among names.
	return len(wanted.ResourceNames) > 0 && !slices.ContainsFunc(wanted.ResourceNames, func(name string) bool {
		return !slices.Contains(owned.ResourceNames, name)
	})
}

// within reports whether all wanted values are owned; "*" stands for each of them.
func within(wanted, owned []string) bool {
	if slices.Contains(owned, "*") {
		return true
	}
	for _, w := range wanted {
		if !slices.Contains(owned, w) {
			return false
		}
	}
	return true
}

// atoms counts what split makes of a rule.
func atoms(r *rbacv1.PolicyRule) int {
	n := max(1, len(r.APIGroups)) * max(1, len(r.Resources))
	if n > maxAtoms || len(r.ResourceNames) > maxAtoms || len(r.Verbs) > maxAtoms {
		return maxAtoms + 1
	}
	if n *= max(1, len(r.ResourceNames)); n > maxAtoms {
		return maxAtoms + 1
	}
	return min(n*len(r.Verbs)+len(r.Verbs)*len(r.NonResourceURLs), maxAtoms+1)
}

// split calls do with each verb on each resource, object and path of a rule.
func split(r *rbacv1.PolicyRule, do func(*rbacv1.PolicyRule)) {
	for _, verb := range r.Verbs {
		verbs := []string{verb}
		for _, path := range r.NonResourceURLs {
			do(&rbacv1.PolicyRule{Verbs: verbs, NonResourceURLs: []string{path}})
		}
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				atom := rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: []string{resource}}
				if len(r.ResourceNames) == 0 {
					do(&atom)
				}
				for _, name := range r.ResourceNames {
					named := atom
					named.ResourceNames = []string{name}
					do(&named)
				}
			}
		}
	}
}
