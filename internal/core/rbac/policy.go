package rbac

import (
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
)

// Ref names a Role or RoleBinding, or without a namespace a ClusterRole or
// ClusterRoleBinding.
type Ref struct{ Namespace, Name string }

// User is who asks.
type User struct {
	Name   string
	Groups []string
}

// Policy holds roles and bindings, bindings by whom they are for.
type Policy struct {
	roles    map[Ref][]rbacv1.PolicyRule
	bindings map[Ref]*binding
	grants   map[subject][]*binding
}

// subject is one that a binding of a namespace, or of the cluster, names.
type subject struct {
	group           bool // else a user
	name, namespace string
}

type binding struct {
	ref      Ref
	role     Ref
	subjects []rbacv1.Subject
}

// NewPolicy makes one that allows nothing.
func NewPolicy() *Policy {
	return &Policy{roles: map[Ref][]rbacv1.PolicyRule{}, bindings: map[Ref]*binding{}, grants: map[subject][]*binding{}}
}

// SetRole stores a role's rules, which the caller no longer changes.
func (p *Policy) SetRole(ref Ref, rules []rbacv1.PolicyRule) { p.roles[ref] = rules }

// DeleteRole forgets a role; its bindings then grant nothing.
func (p *Policy) DeleteRole(ref Ref) { delete(p.roles, ref) }

// SetBinding stores a binding; its subjects are no longer changed by the caller.
func (p *Policy) SetBinding(ref Ref, role rbacv1.RoleRef, subjects []rbacv1.Subject) {
	p.DeleteBinding(ref)
	b := &binding{ref: ref, role: RoleOf(ref.Namespace, role), subjects: subjects}
	p.bindings[ref] = b
	for _, s := range b.keys() {
		p.grants[s] = append(p.grants[s], b)
	}
}

// DeleteBinding forgets a binding.
func (p *Policy) DeleteBinding(ref Ref) {
	b := p.bindings[ref]
	if b == nil {
		return
	}
	delete(p.bindings, ref)
	for _, s := range b.keys() {
		left := slices.DeleteFunc(p.grants[s], func(other *binding) bool { return other == b })
		if len(left) == 0 {
			delete(p.grants, s)
			continue
		}
		p.grants[s] = left
	}
}

// RoleOf is the role that a binding in namespace refers to.
func RoleOf(namespace string, ref rbacv1.RoleRef) Ref {
	if ref.Kind == "ClusterRole" {
		namespace = ""
	}
	return Ref{namespace, ref.Name}
}

// keys are the places of a binding in the index, each once.
func (b *binding) keys() []subject {
	var keys []subject
	for _, s := range b.subjects {
		key := subject{name: s.Name, namespace: b.ref.Namespace}
		switch s.Kind {
		case rbacv1.GroupKind:
			key.group = true
		case rbacv1.ServiceAccountKind:
			// As the authenticator of their tokens calls them.
			key.name = "system:serviceaccount:" + s.Namespace + ":" + s.Name
		case rbacv1.UserKind:
		default:
			continue
		}
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// Allowed decides on a request. The reason names the binding that allows it, or the
// roles that bindings name and nobody has made.
func (p *Policy) Allowed(u User, r *Request) (ok bool, reason string) {
	p.visit(u, r.Namespace, func(b *binding, by subject) bool {
		rules, found := p.roles[b.role]
		if !found {
			reason += fmt.Sprintf("RBAC: %s not found; ", b.role)
			return true
		}
		for i := range rules {
			if Allows(&rules[i], r) {
				ok, reason = true, fmt.Sprintf("RBAC: allowed by %s of %s to %s", b.describe(), b.role, by)
				return false
			}
		}
		return true
	})
	return ok, reason
}

// Rules are all that hold for a user in a namespace, those of the cluster included.
// Missing names roles that bindings refer to and that don't exist.
func (p *Policy) Rules(u User, namespace string) (rules []rbacv1.PolicyRule, missing []Ref) {
	p.visit(u, namespace, func(b *binding, _ subject) bool {
		of, found := p.roles[b.role]
		if !found {
			missing = append(missing, b.role)
		}
		rules = append(rules, of...)
		return true
	})
	return rules, missing
}

// Role gives a role's rules.
func (p *Policy) Role(ref Ref) (rules []rbacv1.PolicyRule, ok bool) {
	rules, ok = p.roles[ref]
	return rules, ok
}

// Binding gives a binding's role and for whom it is.
func (p *Policy) Binding(ref Ref) (role Ref, subjects []rbacv1.Subject, ok bool) {
	b := p.bindings[ref]
	if b == nil {
		return Ref{}, nil, false
	}
	return b.role, b.subjects, true
}

// visit goes through the bindings of a user and its groups, the cluster's first,
// until do returns false.
func (p *Policy) visit(u User, namespace string, do func(*binding, subject) bool) {
	scopes := []string{"", namespace}
	if namespace == "" {
		scopes = scopes[:1]
	}
	for _, scope := range scopes {
		for i := -1; i < len(u.Groups); i++ {
			key := subject{name: u.Name, namespace: scope}
			if i >= 0 {
				key = subject{group: true, name: u.Groups[i], namespace: scope}
			}
			for _, b := range p.grants[key] {
				if !do(b, key) {
					return
				}
			}
		}
	}
}

func (r Ref) String() string {
	if r.Namespace == "" {
		return fmt.Sprintf("ClusterRole %q", r.Name)
	}
	return fmt.Sprintf("Role %q", r.Name+"/"+r.Namespace)
}

func (b *binding) describe() string {
	if b.ref.Namespace == "" {
		return fmt.Sprintf("ClusterRoleBinding %q", b.ref.Name)
	}
	return fmt.Sprintf("RoleBinding %q", b.ref.Name+"/"+b.ref.Namespace)
}

func (s subject) String() string {
	if s.group {
		return fmt.Sprintf("Group %q", s.name)
	}
	return fmt.Sprintf("User %q", s.name)
}
