package garbage

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"

	"portico.dev/portico/internal/controllers/resources"
	"portico.dev/portico/internal/controllers/work"
)

const (
	workers = 8

	// startWait is how long the first work waits for all caches. A kind whose
	// list can't be had (a broken conversion webhook, say) must not stop the
	// collection of all others.
	startWait = 10 * time.Second

	// discoverEvery: kinds that come without a CustomResourceDefinition's event.
	discoverEvery = 30 * time.Second
	// A definition's event comes before the kind is served: look more often for
	// a while.
	discoverSoon   = time.Second
	discoverRounds = 5

	// absentOwners is how many owners known to be gone are remembered: it saves one
	// read for each further dependent.
	absentOwners = 1000
)

// Deps is what Run needs.
type Deps struct {
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	Log       *slog.Logger
	Clock     clock.WithTicker // nil: the real one
}

// item is one object, and never its successor of the same name.
type item struct {
	resource  schema.GroupVersionResource
	namespace string
	name      string
	uid       types.UID
}

// reference is an owner as a dependent names it. A UID is never used again, so one that
// leads nowhere never will; another with the same UID may, where the first is wrong in its
// kind, name or namespace.
type reference struct {
	apiVersion, kind, namespace, name string
	uid                               types.UID
}

type controller struct {
	Deps
	queue   *work.Queue[item]
	absent  *lru.Cache    // of references
	poke    chan struct{} // a CustomResourceDefinition changed
	judging atomic.Bool   // the queue is worked on, which it isn't at first

	mu       sync.RWMutex
	served   *resources.Served                 // guarded by mu
	monitors map[schema.GroupResource]*monitor // guarded by mu
}

// Run collects garbage until ctx ends.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	c := &controller{
		Deps:     d,
		queue:    work.New[item]("garbage", d.Log, d.Clock),
		absent:   lru.New(absentOwners),
		poke:     make(chan struct{}, 1),
		monitors: map[schema.GroupResource]*monitor{},
	}
	defer c.stopAll()
	if err := c.refresh(ctx); err != nil {
		return err
	}
	c.awaitCaches(ctx)
	c.judging.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() { c.follow(ctx) })
	c.queue.Run(ctx, workers, c.process)
	wg.Wait()
	return nil
}

// awaitCaches waits until all caches are filled, or startWait is over.
func (c *controller) awaitCaches(ctx context.Context) {
	timer := c.Clock.NewTimer(startWait)
	defer timer.Stop()
	for _, m := range c.all() {
		select {
		case <-m.filled:
		case <-timer.C():
			c.Log.Warn("some kinds can't be listed yet; the others are collected", "slow", m.resource.GroupResource().String())
			return
		case <-ctx.Done():
			return
		}
	}
}

// follow keeps the watched kinds those that are served.
func (c *controller) follow(ctx context.Context) {
	soon := 0
	for {
		pause := discoverEvery
		if soon > 0 {
			pause, soon = discoverSoon, soon-1
		}
		timer := c.Clock.NewTimer(pause)
		select {
		case <-c.poke:
			soon = discoverRounds
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		if err := c.refresh(ctx); err != nil && ctx.Err() == nil {
			c.Log.Warn("the kinds to collect may be out of date", "err", err)
		}
	}
}

// refresh asks what is served, and starts and stops monitors.
func (c *controller) refresh(ctx context.Context) error {
	served, err := resources.Discover(ctx, c.Discovery)
	if err != nil {
		return err
	}
	want := map[schema.GroupResource]resources.Resource{}
	for _, r := range served.Preferred {
		if r.Can("get", "list", "watch", "delete", "patch") && !ignored(r) {
			want[r.GroupResource()] = r
		}
	}
	var stopped []*monitor
	c.mu.Lock()
	c.served = served
	for key, m := range c.monitors {
		r, ok := want[key]
		switch {
		case ok && r.GroupVersionResource == m.resource.GroupVersionResource:
			delete(want, key)
		case !ok && served.FailedGroup(key.Group):
			// Unknown isn't gone.
		default:
			stopped = append(stopped, m)
			delete(c.monitors, key)
		}
	}
	for key, r := range want {
		c.monitors[key] = c.start(ctx, r)
	}
	c.mu.Unlock()
	for _, m := range stopped {
		m.stop()
	}
	return nil
}

// ignored: events are many, own nothing and live for an hour.
func ignored(r resources.Resource) bool {
	return r.Resource == "events" && (r.Group == "" || r.Group == "events.k8s.io")
}

func (c *controller) all() []*monitor {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]*monitor, 0, len(c.monitors))
	for _, m := range c.monitors {
		out = append(out, m)
	}
	return out
}

func (c *controller) stopAll() {
	for _, m := range c.all() {
		m.stop()
	}
}

// resourceOf is the resource of a kind and its monitor; either may be unknown.
func (c *controller) resourceOf(kind schema.GroupVersionKind) (resources.Resource, *monitor, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	r, ok := c.served.ForKind(kind)
	return r, c.monitors[r.GroupResource()], ok
}
