package problems

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
	rules "portico.dev/portico/internal/core/service"
)

// settle is how long something must be wrong before it is said: an endpoint that moves
// from one slice to another stands in both for a moment, and a manifest's objects
// come one after the other. What is mended is taken back at once.
const settle = 2 * time.Second

// Deps is what Run needs.
type Deps struct {
	Client   kubernetes.Interface
	Caches   *caches.Shared       // of the term; nil: its own
	Recorder record.EventRecorder // nil: conditions only
	Log      *slog.Logger
	Clock    clock.WithTicker // nil: the real one
}

// controller is one term of the controller.
type controller struct {
	Deps
	queue    *work.Queue[types.NamespacedName]
	services cache.Indexer
	slices   cache.Indexer

	mu       sync.Mutex // guards the following
	computer routing.Computer
	claims   *routing.Table // who claims what, without endpoints
	since    map[types.NamespacedName]time.Time
}

// Run keeps the conditions right until ctx ends. An error means that it could not
// begin.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	c := &controller{
		Deps: d, queue: work.New[types.NamespacedName]("problems", d.Log, d.Clock),
		claims: routing.NewTable(), since: map[types.NamespacedName]time.Time{},
	}
	c.watch(view)
	if ok, err := view.Ready(); !ok {
		return err
	}
	c.queue.Run(ctx, 1, c.sync)
	return nil
}

// sync makes one Service's condition right.
func (c *controller) sync(ctx context.Context, key types.NamespacedName) error {
	svc, err := c.service(key)
	if err != nil || svc == nil || svc.DeletionTimestamp != nil {
		c.settled(key)
		return err
	}
	from, err := c.slicesOf(key)
	if err != nil {
		return err
	}
	found := routing.Problems(catalog.FromService(svc), from, c.owner)
	want := routing.Condition(found, svc.Generation)
	if want != nil {
		want.LastTransitionTime = metav1.NewTime(c.Clock.Now())
	}
	next, changed := rules.WithCondition(svc, routing.ServedCondition, want)
	if !changed {
		c.settled(key)
		return nil
	}
	if want != nil {
		if wait := c.wait(key); wait > 0 {
			c.queue.AddAfter(key, wait)
			return nil
		}
	}
	_, err = c.Client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("write condition %s of Service %s: %w", routing.ServedCondition, key, err)
	}
	c.settled(key)
	if want != nil && c.Recorder != nil && err == nil {
		c.Recorder.Event(svc, corev1.EventTypeWarning, want.Reason, summary(found))
	}
	return nil
}

// summary is the first of the problems; an event has less room than a condition.
func summary(found []routing.Problem) string {
	if n := len(found) - 1; n > 0 {
		return fmt.Sprintf("%s; and %d more, see the condition %s", found[0], n, routing.ServedCondition)
	}
	return found[0].String()
}

// wait gives for how much longer what is wrong with a Service isn't said. Problems that
// change meanwhile don't begin the time anew.
func (c *controller) wait(key types.NamespacedName) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.Clock.Now()
	if _, ok := c.since[key]; !ok {
		c.since[key] = now
	}
	return c.since[key].Add(settle).Sub(now)
}

// settled ends the time of wait.
func (c *controller) settled(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.since, key)
}

func (c *controller) owner(key routing.Key) *routing.Frontend {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.claims.Get(key)
}

func (c *controller) service(key types.NamespacedName) (*corev1.Service, error) {
	obj, exists, err := c.services.GetByKey(key.String())
	if err != nil || !exists {
		return nil, err
	}
	return obj.(*corev1.Service), nil
}

func (c *controller) slicesOf(key types.NamespacedName) ([]*catalog.Slice, error) {
	found, err := caches.SlicesOf(c.slices, key)
	if err != nil {
		return nil, err
	}
	out := make([]*catalog.Slice, 0, len(found))
	for _, s := range found {
		out = append(out, catalog.FromSlice(s))
	}
	return out, nil
}
