// Package noderestriction keeps each node's identity to what is its own: it may write
// its Node, its Lease, pods that are bound to it, and what it says of its announcements,
// and ask for certificates of its own name. It reads the instances of its own pods alone:
// cloud-init's data is in them. Who holds a bootstrap token may ask for a node's
// certificate. Which kinds they may touch at all is RBAC's (the ClusterRoles system:node
// and system:node-bootstrapper); this sees the objects.
//
// In: writes with their user, old and new object (Plugin), reads (Reads). Out: forbidden,
// too many, or nothing.
package noderestriction

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/clock"

	coordinationv1 "k8s.io/api/coordination/v1"

	"portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/rbac"
)

// restrictedLabels are for administrators: a node must not give itself a label that
// leads workloads or rights to it (KEP-279).
const restrictedLabels = "node-restriction.kubernetes.io/"

// Plugin is the admission.
type Plugin struct{ requests requests }

var _ admission.ValidationInterface = (*Plugin)(nil)

// New makes the admission; clk is for the limits.
func New(clk clock.PassiveClock) *Plugin {
	return &Plugin{requests{clock: clk, of: map[string]flowcontrol.PassiveRateLimiter{}}}
}

// Handles implements admission.Interface.
func (*Plugin) Handles(admission.Operation) bool { return true }

// Validate implements admission.ValidationInterface.
func (p *Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	who := a.GetUserInfo()
	if who == nil || !isNode(who) && !slices.Contains(who.GetGroups(), rbac.AllBootstrappersGroup) {
		return nil
	}
	if isNode(who) {
		if why := refuse(a); why != "" {
			return admission.NewForbidden(a, errors.New(why))
		}
	}
	return p.requests.check(a)
}

// NodeName is the node that a member of the nodes' group is.
func NodeName(u user.Info) (name string, ok bool) {
	name, ok = strings.CutPrefix(u.GetName(), rbac.NodeUserPrefix)
	return name, ok && name != ""
}

func refuse(a admission.Attributes) string {
	node, ok := NodeName(a.GetUserInfo())
	if !ok {
		return fmt.Sprintf("user %q is in the group %s, but its name is not %sNAME", a.GetUserInfo().GetName(), rbac.NodesGroup, rbac.NodeUserPrefix)
	}
	switch (schema.GroupResource{Group: a.GetResource().Group, Resource: a.GetResource().Resource}) {
	case corev1.Resource("nodes"):
		return refuseNode(node, a)
	case corev1.Resource("pods"):
		return refusePod(node, a)
	case coordinationv1.Resource("leases"):
		if a.GetNamespace() != corev1.NamespaceNodeLease || nameOf(a) != node {
			return fmt.Sprintf("node %q may only write the Lease %s/%[1]s", node, corev1.NamespaceNodeLease)
		}
	}
	if a.GetResource().Group == metallb.Group {
		return refuseStatus(node, a)
	}
	return ""
}

// refuseStatus knows what nodes say of their announcements: each of itself. It is told by
// the label, for names are hashes and a ConfigurationState's status names nobody.
func refuseStatus(node string, a admission.Attributes) string {
	label := metallb.NodeLabel(a.GetResource().Resource)
	if label == "" {
		return "" // no role lets nodes write it
	}
	known := false
	for _, obj := range []runtime.Object{a.GetOldObject(), a.GetObject()} {
		o, ok := obj.(*unstructured.Unstructured)
		if !ok || o == nil {
			continue
		}
		known = true
		of, named, _ := unstructured.NestedString(o.Object, "status", "node") // of no text the schema says no
		if o.GetLabels()[label] != metallb.LabelValue(node) || named && of != "" && of != node {
			return fmt.Sprintf("node %q may only write %s whose label %s names it", node, a.GetResource().Resource, label)
		}
	}
	if !known {
		return fmt.Sprintf("node %q may only write %s that it names", node, a.GetResource().Resource)
	}
	return ""
}

// nameOf is the object's name, also where it is being created.
func nameOf(a admission.Attributes) string {
	if m, ok := a.GetObject().(interface{ GetName() string }); ok && a.GetName() == "" {
		return m.GetName()
	}
	return a.GetName()
}

func refuseNode(node string, a admission.Attributes) string {
	if name := nameOf(a); name != node {
		return fmt.Sprintf("node %q is not allowed to modify node %q", node, name)
	}
	if a.GetOperation() == admission.Delete {
		return refuseLeaving(node, a)
	}
	now, ok := a.GetObject().(*corev1.Node)
	if !ok || a.GetOperation() != admission.Update && a.GetOperation() != admission.Create {
		return ""
	}
	old, ok := a.GetOldObject().(*corev1.Node)
	if !ok {
		old = &corev1.Node{}
	} else if !equality.Semantic.DeepEqual(now.Spec.Taints, old.Spec.Taints) {
		return fmt.Sprintf("node %q is not allowed to modify taints", node)
	}
	if !maps.Equal(restricted(now.Labels), restricted(old.Labels)) {
		return fmt.Sprintf("node %q is not allowed to modify labels that begin with %s", node, restrictedLabels)
	}
	return ""
}

// refuseLeaving lets a node go that has nothing which it could shed by coming back.
func refuseLeaving(node string, a admission.Attributes) string {
	old, ok := a.GetOldObject().(*corev1.Node)
	if !ok || len(old.Spec.Taints) > 0 || len(restricted(old.Labels)) > 0 {
		return fmt.Sprintf("node %q has taints or labels that begin with %s; only others may delete it", node, restrictedLabels)
	}
	return ""
}

func restricted(labels map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range labels {
		// Labels of a domain below it, too: "x.node-restriction.kubernetes.io/y".
		if domain, _, ok := strings.Cut(key, "/"); ok && (domain+"/" == restrictedLabels || strings.HasSuffix(domain+"/", "."+restrictedLabels)) {
			out[key] = value
		}
	}
	return out
}

// refusePod knows writes of existing pods. Labels stay: Services select by them, and a
// node that could change them could draw traffic.
func refusePod(node string, a admission.Attributes) string {
	pod, ok := a.GetOldObject().(*corev1.Pod)
	switch {
	case a.GetOperation() == admission.Delete && !ok:
		return fmt.Sprintf("node %q is not allowed to delete pods that it doesn't name", node)
	case !ok:
		return fmt.Sprintf("node %q is not allowed to create pods", node)
	case pod.Spec.NodeName != node:
		return fmt.Sprintf("node %q can only write pods with spec.nodeName set to itself", node)
	}
	if now, ok := a.GetObject().(*corev1.Pod); ok && a.GetOperation() == admission.Update && !maps.Equal(now.Labels, pod.Labels) {
		return fmt.Sprintf("node %q cannot update labels through pod status", node)
	}
	return ""
}
