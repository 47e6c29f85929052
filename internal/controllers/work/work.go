// Package work is the queue between a controller's watches and its workers:
// keys go in from event handlers, each key is worked on by one worker at a time,
// and what fails comes back later, with growing pauses.
//
// It knows nothing of what the keys mean, and keeps nothing of them.
package work

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
)

// Pauses after a failure double from the first to the last. The first is short
// because most failures are a cache a few milliseconds behind.
const (
	firstPause = 5 * time.Millisecond
	lastPause  = 30 * time.Second
)

// Queue holds each key once, however often it was added.
type Queue[K comparable] struct {
	name  string
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[K]
}

// New makes a queue; the name is for the log.
func New[K comparable](name string, log *slog.Logger, clk clock.WithTicker) *Queue[K] {
	return &Queue[K]{
		name: name,
		log:  log,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[K](firstPause, lastPause),
			workqueue.TypedRateLimitingQueueConfig[K]{Clock: clk},
		),
	}
}

// Add queues the key at once.
func (q *Queue[K]) Add(key K) { q.queue.Add(key) }

// AddAfter queues the key after a while.
func (q *Queue[K]) AddAfter(key K, d time.Duration) { q.queue.AddAfter(key, d) }

// Waiting is how many keys no worker has taken yet.
func (q *Queue[K]) Waiting() int { return q.queue.Len() }

// Run works on keys until ctx ends, and returns when all workers have. It can be
// called once.
func (q *Queue[K]) Run(ctx context.Context, workers int, work func(context.Context, K) error) {
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for q.next(ctx, work) {
			}
		})
	}
	<-ctx.Done()
	q.queue.ShutDown()
	wg.Wait()
}

func (q *Queue[K]) next(ctx context.Context, work func(context.Context, K) error) bool {
	key, shutdown := q.queue.Get()
	if shutdown {
		return false
	}
	defer q.queue.Done(key)
	if ctx.Err() != nil {
		return true // drain without working
	}
	err := recovered(ctx, key, work)
	switch {
	case err == nil:
		q.queue.Forget(key)
	case ctx.Err() != nil:
	default:
		level := slog.LevelWarn
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			level = slog.LevelDebug // another writer was faster: the next try sees it
		}
		q.log.Log(ctx, level, "will try again", "queue", q.name, "key", key, "failures", q.queue.NumRequeues(key)+1, "err", err)
		q.queue.AddRateLimited(key)
	}
	return true
}

// recovered turns a panic into an error: one object that trips a mistake of ours
// must not take down the process, in which the API server may be running too.
func recovered[K comparable](ctx context.Context, key K, work func(context.Context, K) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return work(ctx, key)
}
