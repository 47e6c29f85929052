package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/core/mesh"
	"portico.dev/portico/internal/routes"
	"portico.dev/portico/internal/routes/peers"
)

// peerStatus is another node, as it is reached from this one.
type peerStatus struct {
	Name      string      `json:"name"`
	Addresses []string    `json:"addresses"`
	Ready     bool        `json:"ready"`
	Seen      *time.Time  `json:"seen,omitempty"` // when it last renewed its Lease
	Ways      []wayStatus `json:"ways"`

	hidden bool // its Lease may not be read
}

type wayStatus struct {
	Family string `json:"family"` // of what is reached
	Kind   string `json:"kind"`   // direct, vxlan or none
	Why    string `json:"why"`
	Via    string `json:"via,omitempty"` // the node's address
	Link   string `json:"link,omitempty"`
	Routes int    `json:"routes"`
	MTU    int    `json:"mtu,omitempty"`
}

// askPeers plans the routes to other nodes as the agent does, by what the API knows and
// what this host looks like now, and compares the kernel with that.
func (r *statusRun) askPeers(ctx context.Context, kube kubernetes.Interface, nodes []corev1.Node) error {
	if r.last == nil || !r.last.Agent || r.last.NodeRoutes == noNodeRoutes || r.elsewhere() || len(nodes) < 2 {
		return nil
	}
	elsewhere := fields.OneTermNotEqualSelector("spec.nodeName", r.last.NodeName).String()
	pods, err := kube.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: elsewhere})
	if err != nil {
		return fmt.Errorf("list the pods of other nodes: %w", err)
	}
	leases, err := kube.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
	hidden := apierrors.IsForbidden(err) // a joined node may read its own only
	if err != nil && !hidden {
		return fmt.Errorf("list the Leases of the nodes: %w", err)
	}
	seen := map[string]*time.Time{}
	for i := range leases.Items {
		if renewed := leases.Items[i].Spec.RenewTime; renewed != nil {
			seen[leases.Items[i].Name] = &renewed.Time
		}
	}
	plan, err := r.plan(nodes, pods.Items)
	if err != nil {
		return err
	}
	for _, p := range plan.Peers {
		peer := r.peer(p, seen[p.Name])
		peer.hidden = hidden
		r.status.Peers = append(r.status.Peers, peer)
		for _, problem := range p.Problems {
			r.problem("node %s: %s", p.Name, problem)
		}
	}
	missing, err := peers.Missing(plan)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if len(missing) > 0 {
		r.problem("not all of what leads to other nodes is in this network namespace: %s; look at the log of the agent", strings.Join(missing, ", "))
	}
	return err
}

func (r *statusRun) plan(nodes []corev1.Node, pods []corev1.Pod) (mesh.Plan, error) {
	here := mesh.Here{
		Node: mesh.Node{Name: r.last.NodeName}, Cluster: r.last.Cluster, Guests: r.last.Guests,
		IPv6: routes.IPv6Enabled(), Mode: mesh.Mode(r.last.NodeRoutes),
	}
	var all []mesh.Node
	for i := range nodes {
		n := mesh.FromNode(&nodes[i])
		if n.Name == here.Name {
			here.Node = *n
		}
		all = append(all, *n)
	}
	var guests []mesh.Guest
	for i := range pods {
		if g := mesh.FromPod(&pods[i]); g != nil {
			guests = append(guests, *g)
		}
	}
	var err error
	if here.Hops, err = peers.Hops(all); err != nil {
		return mesh.Plan{}, err
	}
	return mesh.Make(here, all, guests), nil
}

func (r *statusRun) peer(p mesh.Peer, seen *time.Time) peerStatus {
	out := peerStatus{Name: p.Name, Addresses: []string{}, Seen: seen, Ways: []wayStatus{}}
	for _, n := range r.status.Nodes {
		if n.Name == p.Name {
			out.Addresses, out.Ready = n.Addresses, n.Ready
		}
	}
	for _, w := range p.Ways {
		way := wayStatus{Family: w.Family(), Kind: string(w.Kind), Why: w.Why, Link: w.Link, Routes: w.Routes, MTU: w.MTU}
		if w.Via.IsValid() {
			way.Via = w.Via.String()
		}
		out.Ways = append(out.Ways, way)
	}
	return out
}

// line describes the peer, but not the ways to it.
func (p peerStatus) line(now time.Time) string {
	state := "Ready"
	if !p.Ready {
		state = "NOT READY"
	}
	line := fmt.Sprintf("%s at %s, %s", p.Name, strings.Join(p.Addresses, " "), state)
	switch {
	case p.hidden:
	case p.Seen == nil:
		line += ", never seen"
	default:
		line += fmt.Sprintf(", seen %v ago", max(now.Sub(*p.Seen), 0).Round(time.Second))
	}
	return line
}

func (w wayStatus) line() string {
	if w.Kind == string(mesh.NoWay) {
		return fmt.Sprintf("  %s: no way, %s", w.Family, w.Why)
	}
	return fmt.Sprintf("  %s: %s by %s on %s, %d routes, MTU %d: %s", w.Family, w.Kind, w.Via, w.Link, w.Routes, w.MTU, w.Why)
}
