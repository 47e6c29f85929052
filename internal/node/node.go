package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Config is what a Node needs.
type Config struct {
	Name     string       // spec.nodeName of its pods
	HostIPs  []netip.Addr // the node's addresses, the primary first
	Client   kubernetes.Interface
	Runtime  Runtime
	Recorder Recorder
	HandOff  HandOff // nil: pods end without one
	Clock    clock.WithTicker
	Log      *slog.Logger
}

// Node runs the pods that are bound to one node.
type Node struct {
	cfg Config

	mu      sync.Mutex            // guards the following
	workers map[types.UID]*worker // that of endUnknown has no UID
	pods    cache.SharedIndexInformer
	synced  bool

	ending  sync.Mutex // held by endUnknown
	working sync.WaitGroup
}

// New prepares a Node; Run makes it work.
func New(cfg Config) *Node {
	return &Node{cfg: cfg, workers: map[types.UID]*worker{}}
}

// errNotSynced is the health of a node that hasn't seen its pods yet.
var errNotSynced = errors.New("the node's pods haven't been listed yet")

// Healthy gives the reason when the node doesn't do its work.
func (n *Node) Healthy() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.synced {
		return errNotSynced
	}
	return nil
}

// Pods are those bound to this node, as last seen.
func (n *Node) Pods() []corev1.Pod {
	n.mu.Lock()
	pods := n.pods
	n.mu.Unlock()
	if pods == nil {
		return nil
	}
	var out []corev1.Pod
	for _, o := range pods.GetStore().List() {
		if p, ok := o.(*corev1.Pod); ok {
			out = append(out, *p)
		}
	}
	return out
}

// Run works until the context ends and waits for all workers then; workloads go
// on running.
func (n *Node) Run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactoryWithOptions(n.cfg.Client, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = n.selector() }))
	pods := factory.Core().V1().Pods().Informer()
	seen := func(o any) {
		if p, ok := o.(*corev1.Pod); ok {
			n.see(ctx, p)
		}
	}
	handler, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen,
		UpdateFunc: func(before, o any) {
			// After a gap in the watch it may be another pod of the same name.
			was, isPod := before.(*corev1.Pod)
			if is, ok := o.(*corev1.Pod); ok && isPod && was.UID != is.UID {
				n.miss(was.UID)
			}
			seen(o)
		},
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if p, ok := o.(*corev1.Pod); ok {
				n.miss(p.UID)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch the pods of node %s: %w", n.cfg.Name, err)
	}
	n.mu.Lock()
	n.pods = pods
	n.mu.Unlock()

	factory.Start(ctx.Done())
	defer n.working.Wait()
	defer factory.Shutdown() // first: its handlers begin workers
	if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		return nil // the context ended first
	}
	n.mu.Lock()
	n.synced = true
	n.mu.Unlock()
	n.adoptOrphans(ctx)
	<-ctx.Done()
	return nil
}

// see hands a pod to its worker, which it makes if need be.
func (n *Node) see(ctx context.Context, pod *corev1.Pod) {
	if pod.Spec.NodeName != n.cfg.Name {
		return // the field selector says so already; a fake client may not
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	w, ok := n.workers[pod.UID]
	if !ok {
		w = n.newWorker(pod.UID, pod.Namespace+"/"+pod.Name)
		n.begin(ctx, w)
	}
	w.set(pod)
}

// miss tells a worker that its pod is gone from the API.
func (n *Node) miss(uid types.UID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if w, ok := n.workers[uid]; ok {
		w.set(nil)
	}
}

// adoptOrphans finds workloads whose pods are gone, and has them stopped.
func (n *Node) adoptOrphans(ctx context.Context) {
	if len(n.cfg.Runtime.Workloads()) == 0 && len(n.cfg.Runtime.Unknown()) == 0 {
		return
	}
	bound := map[types.UID]bool{}
	for _, pod := range n.bound(ctx) {
		bound[pod.UID] = true
	}
	if ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.cfg.Runtime.Workloads() {
		if _, ok := n.workers[l.PodUID()]; ok || bound[l.PodUID()] {
			continue
		}
		w := n.newWorker(l.PodUID(), "orphan "+string(l.PodUID()))
		w.load = l
		n.begin(ctx, w)
		w.set(nil)
	}
	if len(n.cfg.Runtime.Unknown()) > 0 {
		w := n.newWorker("", "orphans that nobody knows")
		n.begin(ctx, w)
		w.set(nil)
	}
}

// endUnknown ends what runs, though the runtime can't tell what it is, for none of the
// pods that the API has: as with orphans that are known, its addresses may be given away.
// With a controller, what ran for its pod alone: what is the matter with others is no
// concern of that pod's.
func (n *Node) endUnknown(ctx context.Context, controller types.UID) error {
	n.ending.Lock()
	defer n.ending.Unlock()
	unknown := n.cfg.Runtime.Unknown()
	if controller != "" {
		unknown = slices.DeleteFunc(unknown, func(uid types.UID) bool { return uid != controller })
	}
	if len(unknown) == 0 {
		return nil
	}
	wanted := map[types.UID]bool{}
	for _, pod := range n.bound(ctx) {
		if o := metav1.GetControllerOf(&pod); o != nil {
			wanted[o.UID] = true
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // the pods aren't known
	}
	var errs []error
	for _, uid := range unknown {
		if !wanted[uid] {
			n.cfg.Log.Warn("stopping an unknown workload whose pod is gone", "controller", uid)
			errs = append(errs, n.cfg.Runtime.EndUnknown(ctx, uid, orphanGrace))
		}
	}
	return errors.Join(errs...)
}

// bound asks the API for the node's pods until it answers or ctx ends. An informer's first
// list may be older than what an earlier daemon saw: the watch tells of the rest, and a
// guest that was started last isn't to be stopped meanwhile.
func (n *Node) bound(ctx context.Context) []corev1.Pod {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		list, err := n.cfg.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: n.selector()})
		if err == nil {
			return list.Items
		}
		if ctx.Err() != nil {
			return nil
		}
		n.cfg.Log.Warn("Guests whose pods are gone run on until the node's pods can be listed", "error", err)
		t := n.cfg.Clock.NewTimer(pause)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// selector selects the pods that are bound to this node.
func (n *Node) selector() string {
	return fields.OneTermEqualSelector("spec.nodeName", n.cfg.Name).String()
}

// begin runs a worker until it is done. The lock is held.
func (n *Node) begin(ctx context.Context, w *worker) {
	n.workers[w.uid] = w
	n.working.Go(func() {
		w.run(ctx)
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.workers, w.uid)
	})
}

func (n *Node) newWorker(uid types.UID, name string) *worker {
	return &worker{n: n, uid: uid, log: n.cfg.Log.With("pod", name), wake: make(chan struct{}, 1)}
}

// now is the time as the API keeps it.
func (n *Node) now() time.Time { return n.cfg.Clock.Now().Truncate(time.Second) }
