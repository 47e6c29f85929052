package agent

import (
	"context"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/core/mesh"
)

// FollowPeers watches the Nodes, and the pods of all nodes but this one, and hands over
// all of them whenever something changed that routes depend on, until ctx ends. Nothing
// is handed over before both were listed once, and while the API is away nothing is.
// Of a pod only its name, node and addresses are kept.
func FollowPeers(ctx context.Context, client kubernetes.Interface, nodeName string, log *slog.Logger, to func([]mesh.Node, []mesh.Guest)) error {
	p := newPeers()
	var group sync.WaitGroup
	for _, f := range p.followers(client, nodeName, log) {
		group.Go(func() { f.run(ctx) })
	}
	defer group.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.news:
			to(p.all())
		}
	}
}

// peers is the last that the watches of nodes and pods said.
type peers struct {
	news chan struct{} // capacity 1: there is something to hand over

	sync.Mutex // guards the following
	nodes      map[types.NamespacedName]*mesh.Node
	guests     map[types.NamespacedName]*mesh.Guest
	listed     [2]bool
	changed    bool
}

func newPeers() *peers {
	return &peers{news: make(chan struct{}, 1), nodes: map[types.NamespacedName]*mesh.Node{}, guests: map[types.NamespacedName]*mesh.Guest{}}
}

const (
	listedPeers = iota
	listedGuests
)

func (p *peers) followers(client kubernetes.Interface, nodeName string, log *slog.Logger) []*follower {
	nodes, pods := client.CoreV1().Nodes(), client.CoreV1().Pods(metav1.NamespaceAll)
	elsewhere := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermNotEqualSelector("spec.nodeName", nodeName).String()
	}
	known := newNames()
	return []*follower{
		follow[*corev1.Node](client, "nodes", log, nil, lister(nodes.List), nodes.Watch, &store[*corev1.Node, *mesh.Node]{
			state: p, listed: listedPeers, translate: mesh.FromNode,
			put: func(name types.NamespacedName, n *mesh.Node) {
				p.changed = put(p.nodes, name, n, (*mesh.Node).Equal) || p.changed
			},
			names: func() []types.NamespacedName { return keys(p.nodes) },
		}),
		follow[*corev1.Pod](client, "pods", log, elsewhere, lister(pods.List), pods.Watch, &store[*corev1.Pod, *mesh.Guest]{
			state: p, listed: listedGuests,
			translate: func(pod *corev1.Pod) *mesh.Guest {
				g := mesh.FromPod(pod)
				if g != nil {
					g.Node = known.one(g.Node)
				}
				return g
			},
			put: func(name types.NamespacedName, g *mesh.Guest) {
				p.changed = put(p.guests, name, g, (*mesh.Guest).Equal) || p.changed
			},
			names: func() []types.NamespacedName { return keys(p.guests) },
		}),
	}
}

// put keeps a value, or forgets it where there is none, and tells whether that is news.
func put[V any](all map[types.NamespacedName]*V, name types.NamespacedName, v *V, equal func(*V, *V) bool) bool {
	old := all[name]
	switch {
	case v == nil && old == nil, v != nil && old != nil && equal(v, old):
		return false
	case v == nil:
		delete(all, name)
	default:
		all[name] = v
	}
	return true
}

func (p *peers) first(n int) {
	p.listed[n] = true
	p.changed = true
}

func (p *peers) wake() {
	if !p.changed || p.listed != [2]bool{true, true} {
		return
	}
	select {
	case p.news <- struct{}{}:
	default:
	}
}

func (p *peers) all() ([]mesh.Node, []mesh.Guest) {
	p.Lock()
	defer p.Unlock()
	p.changed = false
	nodes, guests := make([]mesh.Node, 0, len(p.nodes)), make([]mesh.Guest, 0, len(p.guests))
	for _, n := range p.nodes {
		nodes = append(nodes, *n)
	}
	for _, g := range p.guests {
		guests = append(guests, *g)
	}
	return nodes, guests
}
