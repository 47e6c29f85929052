package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/rbac"
)

var (
	ctx    = context.Background()
	get    = metav1.GetOptions{}
	create = metav1.CreateOptions{}
	update = metav1.UpdateOptions{}
	list   = metav1.ListOptions{}
)

// as is a client with a certificate of its own.
func as(t testing.TB, s *apitest.Server, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	cert, key, err := s.Authority.Client(user, groups...)
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(s.Config)
	config.CertData, config.KeyData = cert, key
	return client(t, config)
}

// bearing is a client with a token.
func bearing(t testing.TB, s *apitest.Server, token string) kubernetes.Interface {
	t.Helper()
	config := rest.AnonymousClientConfig(s.Config)
	config.BearerToken = token
	return client(t, config)
}

func client(t testing.TB, config *rest.Config) kubernetes.Interface {
	t.Helper()
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return kube
}

func forbidden(t testing.TB, what string, err error, parts ...string) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("%s: got %v, want 403", what, err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %q is not in: %v", what, part, err)
		}
	}
}

func ok(t testing.TB, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// bind gives a user a ClusterRole in a namespace, or in all; it returns when that
// counts.
func bind(t testing.TB, s *apitest.Server, user, role, namespace string) {
	t.Helper()
	ref := rbacv1.RoleRef{Kind: "ClusterRole", Name: role}
	subjects := []rbacv1.Subject{{Kind: "User", Name: user}}
	name := metav1.ObjectMeta{Name: strings.ReplaceAll(user, "/", "-") + "-" + role}
	var err error
	if namespace == "" {
		_, err = s.Kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: name, RoleRef: ref, Subjects: subjects}, create)
	} else {
		_, err = s.Kube.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{ObjectMeta: name, RoleRef: ref, Subjects: subjects}, create)
	}
	if err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the binding counts", func() error {
		if !mayRead(t, s, user, namespace) {
			return errors.New("not yet")
		}
		return nil
	})
}

func mayRead(t testing.TB, s *apitest.Server, user, namespace string) bool {
	t.Helper()
	r, err := s.Kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "get", Resource: "services", Namespace: namespace,
		}},
	}, create)
	if err != nil {
		t.Fatal(err)
	}
	return r.Status.Allowed
}

// A ready server allows what its default bindings grant: on its first start, and on that of
// a version which has more of them than the store.
func TestReadyServerKnowsDefaultBindings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const binding, role = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:node"
	for start := range 5 {
		s := apitest.StartIn(t, dir)
		for _, asked := range []authorizationv1.ResourceAttributes{
			{Verb: "create", Group: "certificates.k8s.io", Resource: "certificatesigningrequests", Subresource: "selfnodeclient"},
			{Verb: "create", Resource: "nodes"},
		} {
			r, err := s.Kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
				Spec: authorizationv1.SubjectAccessReviewSpec{Groups: []string{rbac.NodesGroup}, ResourceAttributes: &asked},
			}, create)
			if err != nil || !r.Status.Allowed {
				t.Errorf("start %d: nodes may not %s %s: %v, %+v", start, asked.Verb, asked.Resource, err, r.Status)
			}
		}
		// What an older version's store looks like.
		ok(t, "take a binding away", s.Kube.RbacV1().ClusterRoleBindings().Delete(ctx, binding, metav1.DeleteOptions{}))
		r, err := s.Kube.RbacV1().ClusterRoles().Get(ctx, role, get)
		if err != nil {
			t.Fatal(err)
		}
		r.Rules = r.Rules[:1]
		_, err = s.Kube.RbacV1().ClusterRoles().Update(ctx, r, update)
		ok(t, "take a role's rules away", err)
		s.Stop()
	}
}

func TestDefaultRoles(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, name := range []string{"cluster-admin", "admin", "edit", "view", "system:discovery", "system:basic-user", "system:public-info-viewer", "system:node"} {
		r, err := s.Kube.RbacV1().ClusterRoles().Get(ctx, name, get)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Rules) == 0 || r.Labels["kubernetes.io/bootstrapping"] != "rbac-defaults" || r.Annotations[rbacv1.AutoUpdateAnnotationKey] != "true" {
			t.Errorf("%s: %+v", name, r)
		}
	}
	jane := as(t, s, "jane")
	_, err := jane.CoreV1().Services("default").List(ctx, list)
	forbidden(t, "without a role", err, `User "jane" cannot list resource "services" in API group "" in the namespace "default"`)
	bind(t, s, "jane", "view", "default")
	_, err = jane.CoreV1().Services("default").List(ctx, list)
	ok(t, "view in its namespace", err)
	_, err = jane.CoreV1().Services("").List(ctx, list)
	forbidden(t, "view in all namespaces", err)
	_, err = jane.CoreV1().Secrets("default").List(ctx, list)
	forbidden(t, "view of secrets", err)
	_, err = jane.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, create)
	forbidden(t, "view writes", err)
	if err := s.Kube.RbacV1().RoleBindings("default").Delete(ctx, "jane-view", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the right ends", func() error {
		if mayRead(t, s, "jane", "default") {
			return errors.New("not yet")
		}
		return nil
	})
}

// What somebody removed from a default role comes back at the next start; what is kept
// by hand stays.
func TestDefaultRolesAreRepaired(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := apitest.StartIn(t, dir)
	roles := s.Kube.RbacV1().ClusterRoles()
	for _, name := range []string{"system:basic-user", "system:discovery"} {
		r, err := roles.Get(ctx, name, get)
		if err != nil {
			t.Fatal(err)
		}
		r.Rules = nil
		if name == "system:discovery" {
			r.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
		}
		if _, err := roles.Update(ctx, r, update); err != nil {
			t.Fatal(err)
		}
	}
	if err := roles.Delete(ctx, "view", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	roles = apitest.StartIn(t, dir).Kube.RbacV1().ClusterRoles()
	for name, want := range map[string]bool{"system:basic-user": true, "system:discovery": false, "view": true} {
		r, err := roles.Get(ctx, name, get)
		if err != nil {
			t.Fatal(err)
		}
		if (len(r.Rules) > 0) != want {
			t.Errorf("%s after a start: %v", name, r.Rules)
		}
	}
}

func TestNobodyGrantsWhatTheyDontHave(t *testing.T) {
	t.Parallel()
	s := start(t)
	bind(t, s, "boss", "admin", "default")
	boss := as(t, s, "boss").RbacV1()
	rule := func(verb, resource string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{Verbs: []string{verb}, APIGroups: []string{""}, Resources: []string{resource}}}
	}
	role := func(name string, rules []rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	}
	binding := func(name, kind, of string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: kind, Name: of}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "jane"}}}
	}
	own, err := boss.Roles("default").Create(ctx, role("own", rule("get", "services")), create)
	ok(t, "a role within one's own", err)
	_, err = boss.Roles("default").Create(ctx, role("more", rule("update", "nodes")), create)
	forbidden(t, "a role beyond", err, `user "boss"`, "is attempting to grant RBAC permissions not currently held", `{APIGroups:[""], Resources:["nodes"], Verbs:["update"]}`)
	own.Rules = rule("*", "services")
	_, err = boss.Roles("default").Update(ctx, own, update)
	forbidden(t, "an update beyond", err)
	_, err = boss.Roles("default").Patch(ctx, "own", types.JSONPatchType, []byte(`[{"op":"add","path":"/rules/0/verbs/-","value":"escalate"}]`), metav1.PatchOptions{})
	forbidden(t, "a patch beyond", err)
	force := true
	_, err = boss.Roles("default").Patch(ctx, "applied", types.ApplyPatchType,
		[]byte(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"applied"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`),
		metav1.PatchOptions{FieldManager: "test", Force: &force})
	forbidden(t, "server-side apply beyond", err)

	apitest.Eventually(t, "the role is known", func() error { // who may bind it is decided by what has been seen
		if _, err = boss.RoleBindings("default").Create(ctx, binding("own", "Role", "own"), create); apierrors.IsNotFound(err) {
			return err
		}
		return nil
	})
	ok(t, "a binding to it", err)
	_, err = boss.RoleBindings("default").Create(ctx, binding("edit", "ClusterRole", "edit"), create)
	ok(t, "a binding to a lesser role", err)
	_, err = boss.RoleBindings("default").Create(ctx, binding("root", "ClusterRole", "cluster-admin"), create)
	forbidden(t, "a binding to a greater role", err, "not currently held")
	_, err = boss.RoleBindings("default").Create(ctx, binding("none", "Role", "none"), create)
	if !apierrors.IsNotFound(err) {
		t.Errorf("a binding to no role: %v", err)
	}
	_, err = boss.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, create)
	forbidden(t, "a ClusterRole", err)

	// The roleRef of a binding is for ever, also for an administrator.
	b, err := s.Kube.RbacV1().RoleBindings("default").Get(ctx, "own", get)
	if err != nil {
		t.Fatal(err)
	}
	b.RoleRef = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}
	if _, err = s.Kube.RbacV1().RoleBindings("default").Update(ctx, b, update); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "cannot change roleRef") {
		t.Errorf("another roleRef: %v", err)
	}
}

func TestEscalateAndBindVerbs(t *testing.T) {
	t.Parallel()
	s := start(t)
	for name, verbs := range map[string][]string{"plain": {"create", "update"}, "trusted": {"create", "update", "escalate", "bind"}} {
		_, err := s.Kube.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
			{Verbs: verbs, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles", "clusterrolebindings"}},
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"services"}},
		}}, create)
		if err != nil {
			t.Fatal(err)
		}
		bind(t, s, name, name, "")
	}
	collecting := func(name string) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, AggregationRule: &rbacv1.AggregationRule{
			ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"x": "y"}}},
		}}
	}
	root := func(name string) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "cluster-admin"}}
	}
	plain, trusted := as(t, s, "plain").RbacV1(), as(t, s, "trusted").RbacV1()
	_, err := plain.ClusterRoles().Create(ctx, collecting("a"), create)
	forbidden(t, "a collecting role without all rights", err)
	_, err = plain.ClusterRoleBindings().Create(ctx, root("a"), create)
	forbidden(t, "a binding without bind", err)
	_, err = trusted.ClusterRoles().Create(ctx, collecting("b"), create)
	ok(t, "a collecting role with escalate", err)
	_, err = trusted.ClusterRoleBindings().Create(ctx, root("b"), create)
	ok(t, "a binding with bind", err)
}

func TestReviews(t *testing.T) {
	t.Parallel()
	s := start(t)
	bind(t, s, "jane", "view", "default")
	jane := as(t, s, "jane", "people")
	self, err := jane.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, create)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(self.Status.UserInfo.Username, self.Status.UserInfo.Groups); got != "jane[people system:authenticated]" {
		t.Error(got)
	}
	rules, err := jane.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, create)
	if err != nil {
		t.Fatal(err)
	}
	if len(rules.Status.ResourceRules) < 5 || len(rules.Status.NonResourceRules) < 2 || rules.Status.Incomplete {
		t.Errorf("%+v", rules.Status)
	}
	can := func(verb, namespace string) bool {
		r, err := jane.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Resource: "services", Namespace: namespace},
		}}, create)
		if err != nil {
			t.Fatal(err)
		}
		return r.Status.Allowed
	}
	if !can("list", "default") || can("create", "default") || can("list", "other") {
		t.Error("can-i")
	}
	_, err = jane.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, create)
	forbidden(t, "asking about others", err)
	_, err = jane.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "x"}}, create)
	forbidden(t, "asking about tokens", err)

	const sar = `{"apiVersion":"authorization.k8s.io/v1","kind":"%s","spec":%s}`
	ask(t, s, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", fmt.Sprintf(sar, "SubjectAccessReview", `{}`)).
		want(t, 422, "exactly one of nonResourceAttributes or resourceAttributes must be specified", "at least one of user or group must be specified")
	ask(t, s, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", fmt.Sprintf(sar, "SubjectAccessReview", `{"user":"jane","nonResourceAttributes":{"path":"/api","verb":"get"}}`)).
		want(t, 201, `"allowed":false`) // the groups must be given, too
	ask(t, s, "POST", "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews",
		fmt.Sprintf(sar, "LocalSubjectAccessReview", `{"user":"jane","resourceAttributes":{"namespace":"default","verb":"get","resource":"pods"}}`)).
		want(t, 201, `"allowed":true`, `RoleBinding "jane-view/default" of ClusterRole "view" to User "jane"`)
	ask(t, s, "POST", "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews",
		fmt.Sprintf(sar, "LocalSubjectAccessReview", `{"user":"jane","resourceAttributes":{"namespace":"other","verb":"get","resource":"pods"}}`)).
		want(t, 422, "must match metadata.namespace")
}

func TestNodesAreLimited(t *testing.T) {
	t.Parallel()
	s := start(t)
	makeNamespace(t, s, "kube-node-lease")
	a := as(t, s, "system:node:a", "system:nodes").CoreV1()
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	mine, err := a.Nodes().Create(ctx, node("a"), create)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Nodes().Create(ctx, node("b"), create)
	forbidden(t, "another Node", err, `node "a" is not allowed to modify node "b"`)
	_, err = a.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{GenerateName: "x"}}, create)
	forbidden(t, "a Node of any name", err)
	labelled := mine.DeepCopy()
	labelled.Labels = map[string]string{"zone": "z", "node-restriction.kubernetes.io/x": "y"}
	_, err = a.Nodes().Update(ctx, labelled, update)
	forbidden(t, "a restricted label", err)
	delete(labelled.Labels, "node-restriction.kubernetes.io/x")
	mine, err = a.Nodes().Update(ctx, labelled, update)
	ok(t, "a label", err)
	tainted := mine.DeepCopy()
	tainted.Spec.Taints = []corev1.Taint{{Key: "x", Effect: corev1.TaintEffectNoSchedule}}
	_, err = a.Nodes().Update(ctx, tainted, update)
	forbidden(t, "a taint", err)
	_, err = a.Nodes().UpdateStatus(ctx, mine, update)
	ok(t, "its status", err)
	taints := func(list string) {
		t.Helper()
		mine, err = s.Kube.CoreV1().Nodes().Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"taints":`+list+`}}`), metav1.PatchOptions{})
		ok(t, "an administrator's taints", err)
	}
	taints(`[{"key":"quarantine","effect":"NoSchedule"}]`)
	forbidden(t, "shedding a taint by leaving", a.Nodes().Delete(ctx, "a", metav1.DeleteOptions{}), "only others may delete it")
	taints("null")

	leases := as(t, s, "system:node:a", "system:nodes").CoordinationV1()
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	_, err = leases.Leases("kube-node-lease").Create(ctx, lease("a"), create)
	ok(t, "its Lease", err)
	_, err = leases.Leases("kube-node-lease").Create(ctx, lease("b"), create)
	forbidden(t, "another's Lease", err)
	_, err = leases.Leases("default").Create(ctx, lease("a"), create)
	forbidden(t, "a Lease elsewhere", err)

	for name, on := range map[string]string{"here": "a", "there": "b"} {
		if _, err := s.Kube.CoreV1().Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
			NodeName: on, Containers: []corev1.Container{{Name: "c", Image: "i"}},
		}}, create); err != nil {
			t.Fatal(err)
		}
	}
	running := []byte(`{"status":{"phase":"Running"}}`)
	for _, c := range []struct {
		pod, sub string
		patch    []byte
		allowed  bool
	}{
		{"here", "status", running, true},
		{"there", "status", running, false},
		{"here", "status", []byte(`{"metadata":{"labels":{"app":"web"}}}`), false},
		{"here", "", []byte(`{"metadata":{"annotations":{"a":"b"}}}`), false},
	} {
		_, err := a.Pods("default").Patch(ctx, c.pod, types.MergePatchType, c.patch, metav1.PatchOptions{}, strings.Fields(c.sub)...)
		if c.allowed {
			ok(t, c.pod, err)
		} else {
			forbidden(t, c.pod+" "+string(c.patch), err)
		}
	}
	forbidden(t, "another node's pod", a.Pods("default").Delete(ctx, "there", metav1.DeleteOptions{}))
	ok(t, "its own pod", a.Pods("default").Delete(ctx, "here", metav1.DeleteOptions{}))
	_, err = a.Services("").List(ctx, list)
	ok(t, "Services", err)
	_, err = a.Secrets("").List(ctx, list)
	forbidden(t, "Secrets", err)
	_, err = a.Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, create)
	forbidden(t, "a Service", err)

	// The group alone, or the name alone, makes no node.
	_, err = as(t, s, "jane", "system:nodes").CoreV1().Nodes().UpdateStatus(ctx, mine, update)
	forbidden(t, "a member of the group that is no node", err, "but its name is not system:node:NAME")
	_, err = as(t, s, "system:node:a").CoreV1().Services("").List(ctx, list)
	forbidden(t, "a node's name without the group", err)

	ok(t, "leaving", a.Nodes().Delete(ctx, "a", metav1.DeleteOptions{}))
}
