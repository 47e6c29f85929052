package loadbalancers

import (
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/rbac"
)

// passwordsRole is the Role and the RoleBinding by which nodes read BGP passwords.
const passwordsRole = "portico:bgp-passwords"

// grantPasswords has nodes read exactly the Secrets of metallb-system that BGPPeers name.
// Those of other namespaces are for their owners to grant.
func (c *controller) grantPasswords(ctx context.Context) error {
	c.mu.Lock()
	config := c.config
	c.mu.Unlock()
	if config == nil {
		return nil
	}
	rules := passwordRules(config.BGPPeers)
	if err := c.keepRole(ctx, rules); err != nil {
		return fmt.Errorf("let nodes read BGP passwords: Role %s/%s: %w", core.Namespace, passwordsRole, err)
	}
	if len(rules) == 0 {
		return nil
	}
	_, err := c.Client.RbacV1().RoleBindings(core.Namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: passwordsRole},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: passwordsRole},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: rbac.NodesGroup}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("let nodes read BGP passwords: RoleBinding %s/%s: %w", core.Namespace, passwordsRole, err)
	}
	return nil
}

// passwordRules is empty where no Secret is named: a rule without names is for all.
func passwordRules(peers []*core.BGPPeer) []rbacv1.PolicyRule {
	var names []string
	for _, p := range peers {
		s := p.Spec.PasswordSecret
		if s.Name != "" && (s.Namespace == "" || s.Namespace == core.Namespace) {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: slices.Compact(names)}}
}

// keepRole makes the Role where there is something to grant, and has it grant that only.
func (c *controller) keepRole(ctx context.Context, rules []rbacv1.PolicyRule) error {
	roles := c.Client.RbacV1().Roles(core.Namespace)
	is, err := roles.Get(ctx, passwordsRole, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && len(rules) == 0:
		return nil
	case apierrors.IsNotFound(err):
		_, err = roles.Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: passwordsRole}, Rules: rules}, metav1.CreateOptions{})
	case err == nil && !equality.Semantic.DeepEqual(is.Rules, rules):
		is.Rules = rules
		_, err = roles.Update(ctx, is, metav1.UpdateOptions{})
	}
	return err
}
