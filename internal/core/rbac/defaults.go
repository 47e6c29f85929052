package rbac

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// bootstrapLabel and its value mark the default objects, as upstream.
	bootstrapLabel, bootstrapValue = "kubernetes.io/bootstrapping", "rbac-defaults"

	// aggregateLabel begins the labels of roles that the collecting ones gather.
	aggregateLabel = "rbac.authorization.k8s.io/aggregate-to-"

	// NodesGroup is the group of all nodes; a node's user is NodeUserPrefix and its name.
	NodesGroup     = "system:nodes"
	NodeUserPrefix = "system:node:"

	// AllBootstrappersGroup is that of all who hold a bootstrap token.
	AllBootstrappersGroup = "system:bootstrappers"
	// BootstrappersGroup is that of tokens by which hosts join. It begins as upstream
	// wants it of tokens' groups.
	BootstrappersGroup = "system:bootstrappers:portico:nodes"

	nodeClientRole     = "system:certificates.k8s.io:certificatesigningrequests:nodeclient"
	selfNodeClientRole = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient"

	mastersGroup         = "system:masters"
	authenticatedGroup   = "system:authenticated"
	unauthenticatedGroup = "system:unauthenticated"
)

var (
	read  = []string{"get", "list", "watch"}
	write = []string{"create", "delete", "deletecollection", "patch", "update"}
	full  = append(append([]string{}, write...), read...)

	certificateRequests = append([]string{"create"}, read...)
)

const (
	coreGroup, discoveryGroup, networkingGroup = "", "discovery.k8s.io", "networking.k8s.io"
	coordinationGroup, eventsGroup             = "coordination.k8s.io", "events.k8s.io"
	authenticationGroup, authorizationGroup    = "authentication.k8s.io", "authorization.k8s.io"
	machinesGroup, machinesSub                 = "kubevirt.io", "subresources.kubevirt.io"
	balancersGroup                             = "metallb.io"
	certificatesGroup                          = "certificates.k8s.io"
)

// rule is the usual form of a rule: verbs on resources of one group.
func rule(verbs []string, group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs, APIGroups: []string{group}, Resources: resources}
}

func paths(urls ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: urls}
}

// DefaultClusterRoles are those every cluster has. Their names and meaning are
// upstream's; the resources are what is served here, and what other projects'
// controllers expect these roles to hold of core and networking.
func DefaultClusterRoles() []*rbacv1.ClusterRole {
	roles := []*rbacv1.ClusterRole{
		role("cluster-admin", rule([]string{"*"}, "*", "*"), rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		role("system:discovery", paths("/livez", "/readyz", "/healthz", "/version", "/version/",
			"/openapi", "/openapi/*", "/api", "/api/*", "/apis", "/apis/*")),
		role("system:public-info-viewer", paths("/livez", "/readyz", "/healthz", "/version", "/version/")),
		role("system:basic-user",
			rule([]string{"create"}, authorizationGroup, "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			rule([]string{"create"}, authenticationGroup, "selfsubjectreviews")),
		// For servers that ask this one who somebody is and what it may do.
		role("system:auth-delegator",
			rule([]string{"create"}, authenticationGroup, "tokenreviews"),
			rule([]string{"create"}, authorizationGroup, "subjectaccessreviews")),
		nodeRole(),
		// What a host that has a bootstrap token may ask for; the certificates' controller
		// approves for whoever has the second, and renews for whoever has the third.
		role("system:node-bootstrapper", rule(certificateRequests, certificatesGroup, "certificatesigningrequests"), named("configmaps", "portico-config")),
		role(nodeClientRole, rule([]string{"create"}, certificatesGroup, "certificatesigningrequests/nodeclient")),
		role(selfNodeClientRole, rule([]string{"create"}, certificatesGroup, "certificatesigningrequests/selfnodeclient")),
		collecting("admin", "admin"), collecting("edit", "edit", "admin"), collecting("view", "view", "edit"),
		labelled("system:aggregate-to-admin", "admin", adminRules()),
		labelled("system:aggregate-to-edit", "edit", editRules()),
		labelled("system:aggregate-to-view", "view", viewRules()),
		labelled("kubevirt.io:admin", "admin", machineAdminRules()),
		labelled("kubevirt.io:edit", "edit", machineEditRules()),
		labelled("kubevirt.io:view", "view", machineViewRules()),
	}
	for _, r := range roles {
		if r.AggregationRule != nil {
			r.Rules = nil
		}
	}
	// Those that collect are full from the start, before any controller runs: view
	// first, for edit collects it, and admin collects edit.
	for _, name := range []string{"view", "edit", "admin"} {
		for _, r := range roles {
			if r.Name == name {
				r.Rules = Aggregate(r, roles)
			}
		}
	}
	return roles
}

// DefaultClusterRoleBindings give the default roles to the groups they are for.
func DefaultClusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	bind := func(name string, groups ...string) *rbacv1.ClusterRoleBinding {
		b := &rbacv1.ClusterRoleBinding{
			ObjectMeta: bootstrapMeta(name),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		}
		for _, g := range groups {
			b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: g})
		}
		return b
	}
	return []*rbacv1.ClusterRoleBinding{
		bind("cluster-admin", mastersGroup),
		bind("system:discovery", authenticatedGroup),
		bind("system:basic-user", authenticatedGroup),
		bind("system:public-info-viewer", authenticatedGroup, unauthenticatedGroup),
		// Upstream binds this role to nobody and has an authorizer for nodes. Here the
		// role is small, and admission keeps each node to what is its own.
		bind("system:node", NodesGroup),
		bind("system:node-bootstrapper", BootstrappersGroup),
		bind(nodeClientRole, BootstrappersGroup),
		bind(selfNodeClientRole, NodesGroup),
	}
}

func bootstrapMeta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name:        name,
		Labels:      map[string]string{bootstrapLabel: bootstrapValue},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: bootstrapMeta(name), Rules: rules}
}

// labelled is a role whose rules the role `to` collects.
func labelled(name, to string, rules []rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := role(name, rules...)
	r.Labels[aggregateLabel+to] = "true"
	return r
}

// collecting is a role that gathers those labelled for it, and is gathered itself by
// the roles above it.
func collecting(name, from string, above ...string) *rbacv1.ClusterRole {
	r := role(name)
	for _, a := range above {
		r.Labels[aggregateLabel+a] = "true"
	}
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregateLabel + from: "true"}},
	}}
	return r
}

// nodeRole is what an agent needs, and a kubelet of the same rank: to read what it
// turns into packets and names, and to write about itself. Of Secrets the one is among it
// by which agents know each other.
func nodeRole() *rbacv1.ClusterRole {
	return role("system:node",
		rule(read, coreGroup, "services", "nodes", "pods", "namespaces"),
		rule(read, discoveryGroup, "endpointslices"),
		rule(read, networkingGroup, "servicecidrs"),
		named("configmaps", "portico-dns", "portico-config"),
		named("secrets", "portico-greetings"),
		// What load balancers may announce, and what this node announces.
		rule(read, balancersGroup, "*"),
		rule([]string{"create", "update", "patch", "delete"}, balancersGroup, "servicel2statuses", "servicel2statuses/status",
			"servicebgpstatuses", "servicebgpstatuses/status", "configurationstates", "configurationstates/status"),
		rule(read, machinesGroup, "virtualmachineinstances"),
		rule([]string{"create", "update", "patch", "delete"}, coreGroup, "nodes"),
		rule(certificateRequests, certificatesGroup, "certificatesigningrequests"),
		rule([]string{"get", "update", "patch"}, coreGroup, "nodes/status", "pods/status"),
		rule([]string{"delete"}, coreGroup, "pods"),
		rule([]string{"create", "get", "update", "patch", "delete"}, coordinationGroup, "leases"),
		rule([]string{"create", "update", "patch"}, coreGroup, "events"),
		rule([]string{"create", "update", "patch"}, eventsGroup, "events"),
		// A node's door asks who its caller is.
		rule([]string{"create"}, authenticationGroup, "tokenreviews"),
		rule([]string{"create"}, authorizationGroup, "subjectaccessreviews"))
}

// named lets somebody read single objects of the core group: a node the settings of its
// DNS server and of its cluster.
func named(resource string, names ...string) rbacv1.PolicyRule {
	r := rule(read, coreGroup, resource)
	r.ResourceNames = names
	return r
}

// viewRules leave out Secrets, and with them what would lead to further rights.
func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(read, coreGroup, "bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces", "namespaces/status",
			"persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/log", "pods/status",
			"replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status",
			"resourcequotas", "resourcequotas/status", "serviceaccounts", "services", "services/status"),
		rule(read, discoveryGroup, "endpointslices"),
		rule(read, networkingGroup, "ingresses", "ingresses/status", "networkpolicies"),
	}
}

func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(read, coreGroup, "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		rule([]string{"impersonate"}, coreGroup, "serviceaccounts"),
		rule(write, coreGroup, "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy"),
		rule([]string{"create"}, coreGroup, "pods/eviction"),
		rule(write, coreGroup, "configmaps", "events", "persistentvolumeclaims", "replicationcontrollers", "replicationcontrollers/scale",
			"secrets", "serviceaccounts", "services", "services/proxy"),
		rule([]string{"create"}, coreGroup, "serviceaccounts/token"),
		rule(write, networkingGroup, "ingresses", "networkpolicies"),
		rule(full, coordinationGroup, "leases"),
	}
}

func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule([]string{"create"}, authorizationGroup, "localsubjectaccessreviews"),
		rule(full, rbacv1.GroupName, "roles", "rolebindings"),
	}
}

func machineViewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule(read, machinesGroup, "virtualmachines", "virtualmachineinstances"),
		rule([]string{"get"}, machinesSub, "virtualmachineinstances/guestosinfo", "virtualmachineinstances/filesystemlist",
			"virtualmachineinstances/userlist", "virtualmachines/expand-spec"),
	}
}

func machineEditRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule([]string{"get", "delete", "create", "update", "patch", "list", "watch"}, machinesGroup, "virtualmachines", "virtualmachineinstances"),
		rule([]string{"get"}, machinesSub, "virtualmachineinstances/console", "virtualmachineinstances/vnc",
			"virtualmachineinstances/vnc/screenshot", "virtualmachineinstances/portforward"),
		rule([]string{"update"}, machinesSub, "virtualmachineinstances/pause", "virtualmachineinstances/unpause",
			"virtualmachineinstances/softreboot", "virtualmachineinstances/reset"),
		rule([]string{"update"}, machinesSub, "virtualmachines/start", "virtualmachines/stop", "virtualmachines/restart",
			"virtualmachines/portforward"),
	}
}

func machineAdminRules() []rbacv1.PolicyRule {
	return append(machineEditRules(),
		rule([]string{"deletecollection"}, machinesGroup, "virtualmachines", "virtualmachineinstances"))
}
