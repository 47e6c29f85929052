package loadbalancers

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/pools"
	"portico.dev/portico/internal/metallb"
)

// Deps is what Run needs.
type Deps struct {
	Client   kubernetes.Interface
	Dynamic  dynamic.Interface
	Caches   *caches.Shared       // of the term; nil: its own
	Recorder record.EventRecorder // nil: no events
	Log      *slog.Logger
	Clock    clock.WithTicker // nil: the real one
	Metrics  *Metrics         // nil: nobody counts
	// Reserved are ranges of the cluster's own. ServiceCIDRs join them, and the nodes'
	// addresses and pod ranges.
	Reserved []pools.Reserved
	// Default are the ranges of cluster IPs where the API has no ServiceCIDR.
	Default []netip.Prefix
}

// The keys of the queue that are no Service's; a Service's has a namespace.
var (
	// everything: pools or nodes have changed.
	everything = types.NamespacedName{Name: "everything"}
	// report: what the pools' status says may be untrue.
	report = types.NamespacedName{Name: "report"}
	// passwords: other Secrets may be named by BGPPeers.
	passwords = types.NamespacedName{Name: "passwords"}
	// leftovers: a node is gone or has died.
	leftovers = types.NamespacedName{Name: "leftovers"}
)

const (
	// reportDelay gathers what many Services change at once into one write for each pool.
	reportDelay = 200 * time.Millisecond
	// servedPoll is how often is asked whether the definitions are served yet.
	servedPoll = 200 * time.Millisecond
)

// controller is one term of the controller. Its queue has one worker, which alone uses
// what is not guarded.
type controller struct {
	Deps
	queue      *work.Queue[types.NamespacedName]
	services   cache.Indexer
	namespaces cache.Indexer
	nodes      cache.Indexer
	ranges     cache.Indexer // of cluster IPs; nil: the API has no ServiceCIDRs

	allocator *pools.Allocator // nil: the pools aren't known yet
	basis     string           // what the allocator was made from
	faults    []pools.Fault
	told      string // of the faults
	hasTold   bool
	known     map[string]*core.IPAddressPool
	refused   map[types.NamespacedName]lack // Services without an address, or without the second
	written   map[types.NamespacedName]written
	changes   int // of the allocator, when the refused were last tried

	mu     sync.Mutex // guards config
	config *core.Config
}

// Run gives and takes addresses until ctx ends. An error means that it could not begin.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	if err := metallb.Install(ctx, d.Dynamic, d.Log); err != nil {
		return err
	}
	if err := served(ctx, d.Dynamic, d.Clock); err != nil {
		return nil //nolint:nilerr // ctx ended
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	c := &controller{
		Deps: d, queue: work.New[types.NamespacedName]("loadbalancers", d.Log, d.Clock),
		refused: map[types.NamespacedName]lack{}, written: map[types.NamespacedName]written{},
	}
	defer d.Metrics.set(nil)
	if err := c.watch(ctx, view); err != nil {
		return err
	}
	if ok, err := view.Ready(); !ok {
		return err
	}
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var followErr error
	following.Go(func() {
		defer cancel()
		followErr = metallb.Follow(ctx, d.Dynamic, d.Log, c.configure)
	})
	c.queue.Run(ctx, 1, c.sync)
	following.Wait()
	return followErr
}

// served waits until pools can be listed. While they can't, Follow counts them as none, and
// then every Service would lose its address.
func served(ctx context.Context, client dynamic.Interface, clk clock.WithTicker) error {
	ticker := clk.NewTicker(servedPoll)
	defer ticker.Stop()
	for {
		if _, err := client.Resource(metallb.Pools).Namespace(core.Namespace).List(ctx, metav1.ListOptions{}); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the definitions: %w", ctx.Err())
		case <-ticker.C():
		}
	}
}

func (c *controller) watch(ctx context.Context, view *caches.View) error {
	informers := view.Core().V1()
	services, namespaces, nodes := informers.Services().Informer(), informers.Namespaces().Informer(), informers.Nodes().Informer()
	c.services, c.namespaces, c.nodes = services.GetIndexer(), namespaces.GetIndexer(), nodes.GetIndexer()
	view.OnAny(services, func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			c.queue.Add(types.NamespacedName{Namespace: name.Namespace, Name: name.Name})
		}
	})
	// Both matter seldom: by their labels, addresses and ranges, which are part of the basis.
	view.OnAny(namespaces, func(any) { c.queue.Add(everything) })
	view.On(nodes, cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { c.queue.Add(everything) },
		UpdateFunc: func(old, now any) {
			if isDead(now.(*corev1.Node)) && !isDead(old.(*corev1.Node)) {
				c.queue.Add(leftovers)
			}
			// Heartbeats come every few seconds.
			if fmt.Sprint(pools.OfNode(old.(*corev1.Node))) != fmt.Sprint(pools.OfNode(now.(*corev1.Node))) {
				c.queue.Add(everything)
			}
		},
		DeleteFunc: func(any) {
			c.queue.Add(everything)
			c.queue.Add(leftovers)
		},
	})
	return c.watchRanges(ctx, view)
}

// watchRanges follows the ServiceCIDRs where there are such: Kubernetes has them since
// 1.33, and an API doesn't learn a kind of its own while it runs.
func (c *controller) watchRanges(ctx context.Context, view *caches.View) error {
	_, err := c.Client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{Limit: 1})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil && ctx.Err() == nil:
		return fmt.Errorf("list ServiceCIDRs, whose addresses no load balancer may have: %w", err)
	case err != nil:
		return nil
	}
	ranges := view.Networking().V1().ServiceCIDRs().Informer()
	c.ranges = ranges.GetIndexer()
	view.OnAny(ranges, func(any) { c.queue.Add(everything) })
	return nil
}

// configure takes what Follow says.
func (c *controller) configure(config *core.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config == nil {
		c.queue.Add(leftovers) // of the time when nobody looked
	}
	c.config = config
	c.queue.Add(everything)
	c.queue.Add(passwords)
}

// sync works on one key.
func (c *controller) sync(ctx context.Context, key types.NamespacedName) error {
	switch key {
	case everything:
		c.begin()
		c.queue.Add(report)
		return nil
	case report:
		return c.report(ctx)
	case passwords:
		return c.grantPasswords(ctx)
	case leftovers:
		return c.removeLeftovers(ctx)
	}
	if c.allocator == nil {
		return nil // begin asks for all
	}
	err := c.service(ctx, key)
	if now := c.allocator.Changes(); now != c.changes {
		c.changes = now
		c.tryAgain()
		c.queue.AddAfter(report, reportDelay)
	}
	return err
}
