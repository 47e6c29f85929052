package certificates

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/core/rbac"
)

// justNow is how long a name counts as taken by whom it was given to: that host has not
// made its Node yet.
const justNow = 10 * time.Second

// verdict says what becomes of a request. The zero verdict: a person is to decide.
type verdict struct {
	approve bool
	deny    string // why
	later   bool   // the node hasn't told enough yet
}

// judge looks at the cluster and decides.
func (c *controller) judge(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, f *form) (verdict, error) {
	if c.isCluster(f.node) {
		return verdict{deny: fmt.Sprintf("%q is a name of the cluster's own; choose another with --node-name", f.node)}, nil
	}
	own := csr.Spec.Username == rbac.NodeUserPrefix+f.node && slices.Contains(csr.Spec.Groups, rbac.NodesGroup)
	switch {
	case f.purpose == x509.ExtKeyUsageServerAuth && own:
		return c.judgeServing(ctx, f)
	case f.purpose == x509.ExtKeyUsageServerAuth:
		return verdict{}, nil
	case own:
		ok, err := c.may(ctx, csr, "selfnodeclient")
		return verdict{approve: ok}, err
	}
	ok, err := c.may(ctx, csr, "nodeclient")
	if err != nil || !ok {
		return verdict{}, err
	}
	why, err := c.taken(ctx, csr, f)
	return verdict{approve: why == "", deny: why}, err
}

// may asks whether a request's user may have a kind of certificate without a person's
// approval, as kube-controller-manager does.
func (c *controller) may(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, kind string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range csr.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := c.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: csr.Spec.Username, UID: csr.Spec.UID, Groups: csr.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: certificatesv1.GroupName, Resource: "certificatesigningrequests", Subresource: kind, Verb: "create",
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask what %s may: %w", csr.Spec.Username, err)
	}
	return review.Status.Allowed, nil
}

// taken says why a host can't join by a name; "" if it can. The node of a host that is
// gone for long is unknown, and another may take its place.
func (c *controller) taken(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, f *form) (string, error) {
	node, err := c.Client.CoreV1().Nodes().Get(ctx, f.node, metav1.GetOptions{})
	switch {
	case err == nil && alive(node):
		return fmt.Sprintf("the node name %q is used by another host, which is alive; choose another with --node-name. If it was this host: a node counts as gone when it has been silent for 40s, or at once after `kubectl delete node %[1]s`", f.node), nil
	case err != nil && !apierrors.IsNotFound(err):
		return "", fmt.Errorf("read Node %s: %w", f.node, err)
	case slices.Contains(c.Reserved, f.node):
		return fmt.Sprintf("%q is a name of the API server; choose another with --node-name", f.node), nil
	}
	others, err := c.Client.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.signerName", csr.Spec.SignerName).String(),
	})
	if err != nil {
		return "", fmt.Errorf("list certificate signing requests: %w", err)
	}
	for i := range others.Items {
		o := &others.Items[i]
		if o.UID == csr.UID || c.Clock.Since(approvedAt(o)).Abs() > justNow { // later than now: the clock was set back
			continue
		}
		if other, err := read(o); err == nil && other.node == f.node && !bytes.Equal(other.RawSubjectPublicKeyInfo, f.RawSubjectPublicKeyInfo) {
			return fmt.Sprintf("the node name %q was given to another host a moment ago; choose another with --node-name, or try again in a few seconds if it was this host", f.node), nil
		}
	}
	return "", nil
}

// alive: only a node that the nodes' controller calls silent isn't.
func alive(node *corev1.Node) bool {
	return !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown
	})
}

// judgeServing lets a node serve at the addresses that its Node shows, if nobody else
// does: with another's address in its certificate it could stand in for that one.
func (c *controller) judgeServing(ctx context.Context, f *form) (verdict, error) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return verdict{}, fmt.Errorf("list nodes: %w", err)
	}
	apis, err := c.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: labels.Set{discoveryv1.LabelServiceName: "kubernetes"}.String(),
	})
	if err != nil {
		return verdict{}, fmt.Errorf("list the API's endpoints: %w", err)
	}
	ranges, err := c.clusterRanges(ctx)
	if err != nil {
		return verdict{}, err
	}
	owners := map[netip.Addr]string{}
	own := map[netip.Addr]bool{}
	for _, n := range nodes.Items {
		for _, a := range addressesOf(&n) {
			if n.Name == f.node {
				own[a] = true
			} else {
				owners[a] = "node " + n.Name
			}
		}
	}
	for _, s := range apis.Items {
		for _, e := range s.Endpoints {
			for _, text := range e.Addresses {
				if a, err := netip.ParseAddr(text); err == nil {
					owners[a] = "the API server"
				}
			}
		}
	}
	later := false
	for _, ip := range f.IPAddresses {
		a, _ := netip.AddrFromSlice(ip)
		a = a.Unmap()
		switch {
		case owners[a] != "":
			return verdict{deny: fmt.Sprintf("the address %s is that of %s", a, owners[a])}, nil
		case !a.IsGlobalUnicast() || slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) }):
			return verdict{deny: fmt.Sprintf("%s is no address of a node", a)}, nil
		case !own[a]:
			later = true
		}
	}
	return verdict{approve: !later, later: later}, nil
}

// clusterRanges are those that are the cluster's now.
func (c *controller) clusterRanges(ctx context.Context) ([]netip.Prefix, error) {
	list, err := c.Client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list ServiceCIDRs: %w", err)
	}
	out := slices.Clone(c.Ranges)
	for i := range list.Items {
		out = append(out, ipam.Prefixes(&list.Items[i])...)
	}
	return out, nil
}

// isCluster says whether clients that look for a Service would use a name: a node's door
// with that in its certificate could stand in for it.
func (c *controller) isCluster(name string) bool {
	return strings.HasSuffix(name, ".svc") || c.Domain != "" && (name == c.Domain || strings.HasSuffix(name, "."+c.Domain))
}

func addressesOf(node *corev1.Node) (out []netip.Addr) {
	for _, s := range node.Status.Addresses {
		if a, err := netip.ParseAddr(s.Address); err == nil && s.Type != corev1.NodeHostName {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// approvedAt is the zero time where a request isn't.
func approvedAt(csr *certificatesv1.CertificateSigningRequest) time.Time {
	for _, condition := range csr.Status.Conditions {
		if condition.Type == certificatesv1.CertificateApproved {
			return condition.LastUpdateTime.Time
		}
	}
	return time.Time{}
}
