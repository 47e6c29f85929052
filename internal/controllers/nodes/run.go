package nodes

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	coordinationlisters "k8s.io/client-go/listers/coordination/v1"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
)

// Deps is what Run needs.
type Deps struct {
	Client   kubernetes.Interface
	Caches   *caches.Shared       // of the term; nil: its own
	Recorder record.EventRecorder // nil: the log alone says what happens
	Log      *slog.Logger
	Clock    clock.WithTicker // nil: the real one
	// Ranges are the cluster's pod ranges, the primary family first. Nodes that
	// have ranges keep them, whatever these are.
	Ranges []netip.Prefix
}

// controller is one term of the controller. Its one worker owns signs and lost.
type controller struct {
	Deps
	queue  *work.Queue[string]
	nodes  corev1listers.NodeLister
	pods   corev1listers.PodLister
	leases coordinationlisters.LeaseLister
	signs  map[string]sign
	lost   map[string]time.Time // nodes that don't exist and have pods: since when that is known

	attention attention
}

// Run looks after nodes until ctx ends. An error means that it could not begin.
func Run(ctx context.Context, d Deps) error {
	if err := checkRanges(d.Ranges); err != nil {
		return err
	}
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	nodes, pods, leases := view.Core().V1().Nodes(), view.Core().V1().Pods(), view.Coordination().V1().Leases()
	c := newController(d, nodes.Lister(), pods.Lister(), leases.Lister())
	view.On(nodes.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: c.seen, UpdateFunc: func(_, obj any) { c.seen(obj) }, DeleteFunc: c.nodeGone})
	view.On(leases.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: c.leaseSeen, UpdateFunc: func(_, obj any) { c.leaseSeen(obj) }})
	view.On(pods.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: c.podSeen, UpdateFunc: func(_, obj any) { c.podSeen(obj) }})
	if ok, err := view.Ready(); !ok {
		return err
	}
	var looking sync.WaitGroup
	looking.Go(func() { c.attention.run(ctx, d.Clock) })
	defer looking.Wait()        // the queue has run until ctx ended
	c.queue.Run(ctx, 1, c.sync) // one worker: ranges are cut one after the other
	return nil
}

func newController(d Deps, nodes corev1listers.NodeLister, pods corev1listers.PodLister, leases coordinationlisters.LeaseLister) *controller {
	return &controller{
		Deps: d, queue: work.New[string]("nodes", d.Log, d.Clock),
		nodes: nodes, pods: pods, leases: leases, signs: map[string]sign{}, lost: map[string]time.Time{},
	}
}

func (c *controller) seen(obj any) {
	if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
		c.queue.Add(name.Name)
	}
}

// nodeGone also wakes the others: they may wait for the pieces it had.
func (c *controller) nodeGone(obj any) {
	c.seen(obj)
	nodes, _ := c.nodes.List(labels.Everything()) // listing a cache can't fail
	for _, node := range nodes {
		c.queue.Add(node.Name)
	}
}

func (c *controller) leaseSeen(obj any) {
	if name, err := cache.DeletionHandlingObjectToName(obj); err == nil && name.Namespace == corev1.NamespaceNodeLease {
		c.queue.Add(name.Name)
	}
}

// podSeen wakes the node of a pod whose node doesn't exist, or may be dead although the
// pod says to be ready.
func (c *controller) podSeen(obj any) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if err != nil || podReady(pod) && readyStatus(node) == corev1.ConditionUnknown {
		c.queue.Add(pod.Spec.NodeName)
	}
}

// sync looks after one node.
func (c *controller) sync(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if err != nil {
		delete(c.signs, name) // the node is gone
		return c.clear(ctx, name)
	}
	delete(c.lost, name)
	if len(node.Spec.PodCIDRs) == 0 && len(c.Ranges) > 0 && node.DeletionTimestamp == nil {
		if err := c.assign(ctx, node); err != nil {
			return err
		}
	}
	return c.watchOver(ctx, node)
}

func (c *controller) event(node *corev1.Node, kind, reason, message string) {
	if c.Recorder != nil {
		c.Recorder.Event(node, kind, reason, message)
	}
}
