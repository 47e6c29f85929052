package clusterroles

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"portico.dev/portico/internal/apiserver/apitest"
)

func TestCollectingRolesFollowLabels(t *testing.T) {
	t.Parallel()
	s := apitest.Start(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Deps{Client: s.Kube, Log: slog.New(slog.DiscardHandler)}) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	roles := s.Kube.RbacV1().ClusterRoles()
	// view is collected by edit, and edit by admin.
	want := func(group string, has bool) {
		t.Helper()
		err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
			for _, name := range []string{"view", "edit", "admin"} {
				r, err := roles.Get(ctx, name, metav1.GetOptions{})
				if err != nil {
					return false, err
				}
				if slices.ContainsFunc(r.Rules, func(r rbacv1.PolicyRule) bool { return slices.Contains(r.APIGroups, group) }) != has {
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(errors.Join(errors.New("the roles don't follow"), err))
		}
	}
	extra := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "extra", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{"example.dev"}, Resources: []string{"things"}}},
	}
	if _, err := roles.Create(ctx, extra, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("example.dev", true)
	want("kubevirt.io", true)
	if err := roles.Delete(ctx, "extra", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("example.dev", false)
	want("kubevirt.io", true)
}
