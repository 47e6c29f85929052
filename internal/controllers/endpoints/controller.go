//lint:file-ignore SA1019 Endpoints is deprecated, and kept all the same (EP-04).

package endpoints

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
)

// workers is how many Services' slices are written at the same time: enough to hide the
// latency of writes, few enough to leave the API server air. Where many Services are made
// at once, each worker takes as much of the processors as one of the clients.
func workers() int { return min(8, runtime.GOMAXPROCS(0)+1) }

// restPace is how long the rest of one Service waits at most while others wait for their
// slices: it goes on slowly where slices never have a pause.
const restPace = 50 * time.Millisecond

// Deps is what Run needs.
type Deps struct {
	Client   kubernetes.Interface
	Caches   *caches.Shared       // of the term; nil: its own
	Recorder record.EventRecorder // nil: failures are logged only
	Log      *slog.Logger
	Clock    clock.WithTicker // nil: the real one
}

// controller is one term of the controller.
type controller struct {
	Deps
	queue    *work.Queue[types.NamespacedName] // Services whose slices to look at
	rest     *work.Queue[types.NamespacedName] // what may come after the slices
	services cache.Indexer
	pods     cache.Indexer
	nodes    cache.Indexer
	slices   cache.Indexer
	objects  cache.Indexer // Endpoints

	syncing atomic.Int32  // workers at slices
	drained chan struct{} // has room for one; filled when no Service waits for its slices

	writtenSlices  *written[*discoveryv1.EndpointSlice]
	writtenObjects *written[*corev1.Endpoints]
	triggers       triggers // of queue
	restTriggers   triggers
	unmatched      unmatched
}

// Run keeps endpoints right until ctx ends. An error means that it could not
// begin.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	c := &controller{
		Deps:           d,
		queue:          work.New[types.NamespacedName]("endpoints", d.Log, d.Clock),
		rest:           work.New[types.NamespacedName]("endpoints, the rest", d.Log, d.Clock),
		drained:        make(chan struct{}, 1),
		writtenSlices:  newWritten[*discoveryv1.EndpointSlice](d.Clock),
		writtenObjects: newWritten[*corev1.Endpoints](d.Clock),
	}
	c.watch(view)
	if ok, err := view.Ready(); !ok {
		return err
	}
	var rest sync.WaitGroup
	defer rest.Wait()
	rest.Go(func() { c.rest.Run(ctx, 1, c.syncRest) })
	c.queue.Run(ctx, workers(), c.sync)
	return nil
}
