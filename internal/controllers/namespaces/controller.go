package namespaces

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/resources"
	"portico.dev/portico/internal/controllers/work"
)

const workers = 4

// What is in a namespace ends at its own pace (a guest shuts down, a finalizer
// is served). Looking again is cheap at first, when most end, and rarer later.
const (
	firstLook = 100 * time.Millisecond
	lastLook  = 5 * time.Second
)

// Deps is what Run needs.
type Deps struct {
	Client    kubernetes.Interface
	Metadata  metadata.Interface
	Discovery discovery.DiscoveryInterface
	Caches    *caches.Shared // of the term; nil: its own
	Log       *slog.Logger
	Clock     clock.WithTicker // nil: the real one
}

type controller struct {
	Deps
	queue *work.Queue[string]

	mu    sync.Mutex
	pause map[string]time.Duration // until the next look, by namespace; guarded by mu
}

// Run empties namespaces until ctx ends.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	informer := view.Core().V1().Namespaces().Informer()
	c := &controller{
		Deps:  d,
		queue: work.New[string]("namespaces", d.Log, d.Clock),
		pause: map[string]time.Duration{},
	}
	changed := func(obj any) {
		if ns := obj.(*corev1.Namespace); ns.DeletionTimestamp != nil {
			c.queue.Add(ns.Name)
		}
	}
	view.On(informer, cache.ResourceEventHandlerFuncs{
		AddFunc: changed,
		UpdateFunc: func(old, obj any) {
			// Our own conditions are no reason to look again at once.
			if old.(*corev1.Namespace).DeletionTimestamp == nil {
				changed(obj)
			}
		},
		DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				c.forget(key)
			}
		},
	})
	if ok, err := view.Ready(); !ok {
		return err
	}
	c.queue.Run(ctx, workers, c.sync)
	return nil
}

// sync takes one step towards the end of a namespace.
func (c *controller) sync(ctx context.Context, name string) error {
	// As it is stored: a cache may still have a Namespace that is gone, and what is in a new
	// one of its name must stay.
	ns, err := c.Client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		c.forget(name) // also where it went while we were at work
		return nil
	}
	if err != nil {
		return fmt.Errorf("read namespace %s: %w", name, err)
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	served, err := resources.Discover(ctx, c.Discovery)
	if err != nil {
		return fmt.Errorf("empty namespace %s: %w", name, err)
	}
	report := c.empty(ctx, name, served)
	current, err := c.writeConditions(ctx, ns, report)
	if err != nil {
		return err
	}
	if report.clean() {
		return c.finalize(ctx, current)
	}
	if err := report.failure(); err != nil {
		return fmt.Errorf("empty namespace %s: %w", name, err)
	}
	c.queue.AddAfter(name, c.nextPause(name))
	return nil
}

func (c *controller) nextPause(name string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := min(max(2*c.pause[name], firstLook), lastLook)
	c.pause[name] = p
	return p
}

func (c *controller) forget(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pause, name)
}

// writeConditions says in the namespace's status how far its deletion is. One
// that is found empty at the first look goes without.
func (c *controller) writeConditions(ctx context.Context, ns *corev1.Namespace, r report) (*corev1.Namespace, error) {
	if r.clean() && len(ns.Status.Conditions) == 0 {
		return ns, nil
	}
	next := ns.DeepCopy()
	next.Status.Phase = corev1.NamespaceTerminating
	changed := ns.Status.Phase != corev1.NamespaceTerminating
	for _, want := range r.conditions() {
		changed = setCondition(&next.Status, want, metav1.NewTime(c.Clock.Now())) || changed
	}
	if !changed {
		return ns, nil
	}
	made, err := c.Client.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		if apierrors.IsConflict(err) {
			// Read it anew for what follows; the conditions come with the next look.
			return c.Client.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{})
		}
		return nil, fmt.Errorf("write conditions of namespace %s: %w", ns.Name, err)
	}
	return made, nil
}

// finalize takes our finalizer off; the API server deletes the namespace when it
// was the last.
func (c *controller) finalize(ctx context.Context, ns *corev1.Namespace) error {
	next := ns.DeepCopy()
	next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err := c.Client.CoreV1().Namespaces().Finalize(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %s: %w", ns.Name, err)
	}
	c.forget(ns.Name)
	c.Log.Info("namespace is empty and goes", "namespace", ns.Name)
	return nil
}
