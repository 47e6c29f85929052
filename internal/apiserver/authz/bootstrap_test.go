package authz_test

import (
	"errors"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/authz"
)

// An authorizer sees the default roles and bindings once their events are here, also those
// that their owner has changed and keeps.
func TestSees(t *testing.T) {
	s := apitest.Start(t)
	client := s.Kube.RbacV1()
	bootstrap := func() authz.Defaults {
		t.Helper()
		d, err := authz.Bootstrap(t.Context(), client)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	z := authz.New()
	eventually := func(what string, d authz.Defaults, want bool) {
		t.Helper()
		apitest.Eventually(t, what, func() error {
			if z.Sees(d) != want {
				return errors.New("not yet")
			}
			return nil
		})
	}
	stored := bootstrap()
	if z.Sees(stored) {
		t.Error("an authorizer that follows nothing sees the defaults")
	}
	factory := informers.NewSharedInformerFactory(s.Kube, 0)
	if _, err := z.Follow(factory); err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	t.Cleanup(factory.Shutdown)
	eventually("the defaults are seen", stored, true)

	const name = "system:node"
	role, err := client.ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role.Rules = role.Rules[:1]
	if _, err := client.ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually("the smaller role is seen", stored, false)
	eventually("the repaired role is seen", bootstrap(), true)

	binding, err := client.ClusterRoleBindings().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	binding.Annotations[rbacv1.AutoUpdateAnnotationKey], binding.Subjects = "false", nil
	if _, err := client.ClusterRoleBindings().Update(t.Context(), binding, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually("the owner's binding is seen", bootstrap(), true)
	if z.Sees(stored) {
		t.Error("the default binding is seen where its owner has emptied it")
	}
}
