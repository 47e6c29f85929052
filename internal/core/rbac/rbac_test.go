package rbac

import (
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// parse reads rules as "verbs groups resources [names]" or "verbs /path,/path".
func parse(lines ...string) (rules []rbacv1.PolicyRule) {
	list := func(s string) []string { return strings.Split(strings.ReplaceAll(s, "core", ""), ",") }
	for _, line := range lines {
		f := strings.Fields(line)
		r := rbacv1.PolicyRule{Verbs: list(f[0])}
		if strings.HasPrefix(f[1], "/") || len(f) == 2 {
			r.NonResourceURLs = list(f[1])
		} else {
			r.APIGroups, r.Resources = list(f[1]), list(f[2])
		}
		if len(f) > 3 {
			r.ResourceNames = list(f[3])
		}
		rules = append(rules, r)
	}
	return rules
}

func TestAllows(t *testing.T) {
	get := func(group, resource, sub, name string) *Request {
		return &Request{Verb: "get", Group: group, Resource: resource, Subresource: sub, Name: name}
	}
	for _, c := range []struct {
		rule string
		ask  *Request
		want bool
	}{
		{"get core pods", get("", "pods", "", "a"), true},
		{"list core pods", get("", "pods", "", "a"), false},
		{"* core pods", get("", "pods", "", "a"), true},
		{"get apps pods", get("", "pods", "", "a"), false},
		{"get * pods", get("apps", "pods", "", "a"), true},
		{"get core pods", get("", "pods", "log", "a"), false},
		{"get core pods/log", get("", "pods", "log", "a"), true},
		{"get core pods/log", get("", "pods", "", "a"), false},
		{"get core */log", get("", "pods", "log", "a"), true},
		{"get core */log", get("", "pods", "", "a"), false},
		{"get core *", get("", "pods", "log", "a"), true},
		{"get core pods a,b", get("", "pods", "", "b"), true},
		{"get core pods a,b", get("", "pods", "", "c"), false},
		{"get core pods *", get("", "pods", "", "c"), false},
		{"get core pods a", get("", "pods", "", ""), false},
		{"get /healthz", &Request{Verb: "get", Path: "/healthz"}, true},
		{"get /healthz", &Request{Verb: "get", Path: "/healthz/etcd"}, false},
		{"get /healthz/*", &Request{Verb: "get", Path: "/healthz/etcd"}, true},
		{"get /healthz/*", &Request{Verb: "get", Path: "/healthz"}, false},
		{"* *", &Request{Verb: "post", Path: "/anything"}, true},
		{"* * *", &Request{Verb: "get", Path: "/anything"}, false},
		{"get /pods", get("", "pods", "", ""), false},
	} {
		rule := parse(c.rule)[0]
		if got := Allows(&rule, c.ask); got != c.want {
			t.Errorf("%q on %+v: %v", c.rule, *c.ask, got)
		}
	}
}

func TestMissing(t *testing.T) {
	for _, c := range []struct {
		name          string
		owned, wanted []string
		missing       int
	}{
		{"the same", []string{"get core pods"}, []string{"get core pods"}, 0},
		{"from two rules", []string{"get core pods", "list core pods"}, []string{"get,list core pods"}, 0},
		{"one verb more", []string{"get core pods"}, []string{"get,list core pods"}, 1},
		{"all verbs", []string{"get,list,watch,create,update,patch,delete core pods"}, []string{"* core pods"}, 1},
		{"all groups", []string{"get core pods"}, []string{"get * pods"}, 1},
		{"a subresource", []string{"get core pods"}, []string{"get core pods/exec"}, 1},
		{"a subresource of *", []string{"get core *"}, []string{"get core pods/exec"}, 0},
		{"any subresource of that name", []string{"get core */exec"}, []string{"get core pods/exec"}, 0},
		{"all of that name from one", []string{"get core pods/exec"}, []string{"get core */exec"}, 1},
		{"all names from some", []string{"get core pods a"}, []string{"get core pods"}, 1},
		{"some names from all", []string{"get core pods"}, []string{"get core pods a,b"}, 0},
		{"a name more", []string{"get core pods a"}, []string{"get core pods a,b"}, 1},
		{"* is no name for all", []string{"get core pods *"}, []string{"get core pods a"}, 1},
		{"paths", []string{"get /a/*"}, []string{"get /a/b,/a/*"}, 0},
		{"a path from another", []string{"get /a/b"}, []string{"get /a/*"}, 1},
		{"paths from resources", []string{"* * *"}, []string{"get /a"}, 1},
		{"everything", []string{"* * *", "* *"}, []string{"* * *", "* *", "get core pods/exec a"}, 0},
		{"nothing", nil, []string{"get,list core pods,services"}, 4},
	} {
		if got := Missing(parse(c.owned...), parse(c.wanted...)); len(got) != c.missing {
			t.Errorf("%s: %d missing, want %d: %+v", c.name, len(got), c.missing, got)
		}
	}
}

// A role may be written that multiplies to billions of atoms; it must cost little.
func TestMissingOfHugeRole(t *testing.T) {
	many := func(prefix string) (out []string) {
		for i := range 2000 {
			out = append(out, fmt.Sprint(prefix, i))
		}
		return out
	}
	huge := rbacv1.PolicyRule{Verbs: many("v"), APIGroups: many("g"), Resources: many("r"), ResourceNames: many("n")}
	if got := Missing(parse("get core pods"), []rbacv1.PolicyRule{huge}); len(got) != 1 {
		t.Fatalf("%d missing", len(got))
	}
}

func TestPolicy(t *testing.T) {
	p := NewPolicy()
	p.SetRole(Ref{"", "reader"}, parse("get core pods", "get /secret"))
	p.SetRole(Ref{"a", "reader"}, parse("get core secrets"))
	group := rbacv1.Subject{Kind: "Group", Name: "g"}
	jane := rbacv1.Subject{Kind: "User", Name: "jane"}
	robot := rbacv1.Subject{Kind: "ServiceAccount", Namespace: "b", Name: "robot"}
	p.SetBinding(Ref{"", "all"}, rbacv1.RoleRef{Kind: "ClusterRole", Name: "reader"}, []rbacv1.Subject{group})
	p.SetBinding(Ref{"a", "some"}, rbacv1.RoleRef{Kind: "Role", Name: "reader"}, []rbacv1.Subject{jane, jane, robot})
	p.SetBinding(Ref{"b", "some"}, rbacv1.RoleRef{Kind: "ClusterRole", Name: "reader"}, []rbacv1.Subject{jane})
	p.SetBinding(Ref{"b", "gone"}, rbacv1.RoleRef{Kind: "Role", Name: "nowhere"}, []rbacv1.Subject{jane})

	ask := func(u User, namespace, resource string) string {
		ok, reason := p.Allowed(u, &Request{Verb: "get", Resource: resource, Namespace: namespace})
		return fmt.Sprint(ok, " ", reason)
	}
	for _, c := range []struct {
		user                      User
		namespace, resource, want string
	}{
		{User{Name: "x", Groups: []string{"g"}}, "a", "pods", `true RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "reader" to Group "g"`},
		{User{Name: "g"}, "a", "pods", "false "}, // a user of the group's name
		{User{Name: "jane"}, "a", "secrets", `true RBAC: allowed by RoleBinding "some/a" of Role "reader/a" to User "jane"`},
		{User{Name: "jane"}, "b", "pods", `true RBAC: allowed by RoleBinding "some/b" of ClusterRole "reader" to User "jane"`},
		{User{Name: "jane"}, "b", "secrets", `false RBAC: Role "nowhere/b" not found; `},
		{User{Name: "jane"}, "", "pods", "false "},
		{User{Name: "system:serviceaccount:b:robot"}, "a", "secrets", `true RBAC: allowed by RoleBinding "some/a" of Role "reader/a" to User "system:serviceaccount:b:robot"`},
	} {
		if got := ask(c.user, c.namespace, c.resource); got != c.want {
			t.Errorf("%v in %q for %s: %s", c.user, c.namespace, c.resource, got)
		}
	}
	// A ClusterRole's paths hold through a ClusterRoleBinding alone.
	if ok, _ := p.Allowed(User{Name: "jane"}, &Request{Verb: "get", Path: "/secret"}); ok {
		t.Error("a RoleBinding gave a path")
	}
	if rules, missing := p.Rules(User{Name: "jane"}, "b"); len(rules) != 2 || len(missing) != 1 {
		t.Errorf("rules %v, missing %v", rules, missing)
	}

	p.SetBinding(Ref{"a", "some"}, rbacv1.RoleRef{Kind: "Role", Name: "reader"}, []rbacv1.Subject{robot})
	if got := ask(User{Name: "jane"}, "a", "secrets"); got != "false " {
		t.Error("a removed subject: ", got)
	}
	p.DeleteBinding(Ref{"a", "some"})
	p.DeleteBinding(Ref{"", "all"})
	p.DeleteBinding(Ref{"b", "some"})
	p.DeleteBinding(Ref{"b", "gone"})
	if len(p.grants) != 0 || len(p.bindings) != 0 {
		t.Errorf("left over: %v", p.grants)
	}
}

func TestDefaults(t *testing.T) {
	p := NewPolicy()
	for _, r := range DefaultClusterRoles() {
		p.SetRole(Ref{"", r.Name}, r.Rules)
		if errs := ValidateClusterRole(r); len(errs) > 0 {
			t.Errorf("%s: %v", r.Name, errs)
		}
		if next, changed := ReconcileRole(r, r); changed {
			t.Errorf("%s lacks something of itself: %v", r.Name, next)
		}
	}
	for _, b := range DefaultClusterRoleBindings() {
		p.SetBinding(Ref{"", b.Name}, b.RoleRef, b.Subjects)
		if errs := ValidateBinding(&b.ObjectMeta, b.RoleRef, b.Subjects, false); len(errs) > 0 {
			t.Errorf("%s: %v", b.Name, errs)
		}
	}
	for _, name := range []string{"view", "edit", "admin"} {
		p.SetBinding(Ref{"a", name}, rbacv1.RoleRef{Kind: "ClusterRole", Name: name}, []rbacv1.Subject{{Kind: "User", Name: name}})
	}
	for _, c := range []struct {
		user, verb, group, resource, sub string
		want                             bool
	}{
		{"view", "list", "", "services", "", true},
		{"view", "get", "", "secrets", "", false},
		{"view", "create", "", "services", "", false},
		{"view", "get", "kubevirt.io", "virtualmachines", "", true},
		{"view", "get", "subresources.kubevirt.io", "virtualmachineinstances", "console", false},
		{"edit", "create", "", "services", "", true},
		{"edit", "list", "", "services", "", true},
		{"edit", "update", "subresources.kubevirt.io", "virtualmachines", "restart", true},
		{"edit", "deletecollection", "kubevirt.io", "virtualmachines", "", false},
		{"edit", "create", "rbac.authorization.k8s.io", "roles", "", false},
		{"admin", "create", "rbac.authorization.k8s.io", "rolebindings", "", true},
		{"admin", "get", "", "secrets", "", true},
		{"admin", "list", "", "services", "", true},
		{"admin", "deletecollection", "kubevirt.io", "virtualmachines", "", true},
		{"admin", "update", "", "services", "status", false},
		{"admin", "update", "", "nodes", "", false},
	} {
		ok, reason := p.Allowed(User{Name: c.user}, &Request{Verb: c.verb, Group: c.group, Resource: c.resource, Subresource: c.sub, Namespace: "a"})
		if ok != c.want {
			t.Errorf("%+v: %v %s", c, ok, reason)
		}
	}
	if ok, _ := p.Allowed(User{Groups: []string{"system:masters"}}, &Request{Verb: "any", Path: "/x"}); !ok {
		t.Error("system:masters may not do everything")
	}
}

func TestReconcile(t *testing.T) {
	wanted := role("r", parse("get,list core pods")...)
	stored := wanted.DeepCopy()
	stored.Rules = parse("get core pods", "get core secrets")
	next, changed := ReconcileRole(stored, wanted)
	if !changed || len(next.Rules) != 3 || len(Missing(next.Rules, wanted.Rules)) != 0 {
		t.Errorf("%v %v", changed, next.Rules)
	}
	stored.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	if _, changed := ReconcileRole(stored, wanted); changed {
		t.Error("a role that is kept by hand was changed")
	}
	binding := DefaultClusterRoleBindings()[0]
	other := binding.DeepCopy()
	other.Subjects = nil
	if next, changed, again := ReconcileBinding(other, binding); !changed || again || len(next.Subjects) != 1 {
		t.Errorf("%v %v %v", next, changed, again)
	}
	other.RoleRef.Name = "other"
	if _, changed, again := ReconcileBinding(other, binding); !changed || !again {
		t.Error("a binding to another role was kept")
	}
}

func TestAggregate(t *testing.T) {
	a, b := labelled("a", "x", parse("get core pods")), labelled("b", "x", parse("get core pods", "get core nodes"))
	x := collecting("x", "x")
	x.Labels[aggregateLabel+"x"] = "true" // never its own rules
	x.Rules = parse("* * *")
	if got := Aggregate(x, []*rbacv1.ClusterRole{x, b, a, role("c", parse("* * *")...)}); fmt.Sprint(got) != fmt.Sprint(parse("get core pods", "get core nodes")) {
		t.Error(got)
	}
}

func TestValidate(t *testing.T) {
	m := metav1.ObjectMeta{Name: "system:x", Namespace: "a"}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"}
	sa := rbacv1.Subject{Kind: "ServiceAccount", Name: "x", Namespace: "a"}
	for _, c := range []struct {
		name string
		errs field.ErrorList
		want string
	}{
		{"good role", ValidateRole(&rbacv1.Role{ObjectMeta: m, Rules: parse("get core pods")}), ""},
		{"path in a namespace", ValidateRole(&rbacv1.Role{ObjectMeta: m, Rules: parse("get /x")}), "namespaced rules cannot apply to non-resource URLs"},
		{
			"empty rule", ValidateRole(&rbacv1.Role{ObjectMeta: m, Rules: []rbacv1.PolicyRule{{}}}),
			"[rules[0].verbs: Required value: verbs must contain at least one value, rules[0].apiGroups: Required value: resource rules must supply at least one api group, rules[0].resources: Required value: resource rules must supply at least one resource]",
		},
		{"slash in the name", ValidateRole(&rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "a/b", Namespace: "a"}}), "may not contain '/'"},
		{"both", ValidateClusterRole(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}, NonResourceURLs: []string{"/x"}},
		}}), "rules cannot apply to both regular resources and non-resource URLs"},
		{"aggregation of nothing", ValidateClusterRole(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "x"}, AggregationRule: &rbacv1.AggregationRule{}}), "at least one clusterRoleSelector required"},
		{"good binding", ValidateBinding(&m, ref, []rbacv1.Subject{sa}, true), ""},
		{"role from the cluster", ValidateBinding(&metav1.ObjectMeta{Name: "x"}, ref, nil, false), `roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`},
		{"account without namespace", ValidateBinding(&m, ref, []rbacv1.Subject{{Kind: "ServiceAccount", Name: "x"}}, true), "subjects[0].namespace: Required value"},
		{"unknown kind", ValidateBinding(&m, ref, []rbacv1.Subject{{Kind: "Robot", Name: "x"}}, true), "subjects[0].kind: Unsupported value"},
		{"user of core", ValidateBinding(&m, ref, []rbacv1.Subject{{Kind: "User", Name: "x"}}, true), "subjects[0].apiGroup: Unsupported value"},
		{"another role", ValidateRoleRefUpdate(ref, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "r"}), "cannot change roleRef"},
	} {
		if got := fmt.Sprint(c.errs.ToAggregate()); c.want == "" && len(c.errs) > 0 || !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

// A decision's cost must not grow with other users' bindings.
func BenchmarkAllowed(b *testing.B) {
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprint(others, " others"), func(b *testing.B) {
			p := NewPolicy()
			for _, r := range DefaultClusterRoles() {
				p.SetRole(Ref{"", r.Name}, r.Rules)
			}
			for i := range others + 1 {
				p.SetBinding(Ref{"a", fmt.Sprint(i)}, rbacv1.RoleRef{Kind: "ClusterRole", Name: "edit"}, []rbacv1.Subject{{Kind: "User", Name: fmt.Sprint(i)}})
			}
			u, r := User{Name: "0", Groups: []string{"system:authenticated"}}, &Request{Verb: "create", Resource: "services", Namespace: "a"}
			b.ReportAllocs()
			for b.Loop() {
				if ok, _ := p.Allowed(u, r); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}
