package statuses

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

const (
	// retry is the pause after a write that failed: the API is away, or has no such kind.
	retry = 5 * time.Second
	// relist is how often the objects are looked for: somebody may have removed one of a
	// node that the API took for dead.
	relist = time.Minute
	// lastWrite bounds what a stopping agent writes: the API may have gone before it.
	lastWrite = time.Second
)

// Writer keeps the objects of one kind that are a node's.
type Writer struct {
	node     string
	resource schema.GroupVersionResource
	client   dynamic.Interface
	log      *slog.Logger
	wake     chan struct{} // capacity 1: there is something to write
	last     time.Duration // lastWrite, but in tests

	mu     sync.Mutex               // guards wanted
	wanted map[string]metav1.Object // by name; nil: nothing was said yet

	// Run alone uses these.
	written map[string]metav1.Object // by name; nil: left by an earlier run
	known   bool                     // written has what is in the API
	failed  bool                     // the last try to write
}

// NewWriter makes a Writer of a kind for a node; Run has it write.
func NewWriter(node string, resource schema.GroupVersionResource, client dynamic.Interface, log *slog.Logger) *Writer {
	return &Writer{node: node, resource: resource, client: client, log: log, wake: make(chan struct{}, 1), last: lastWrite, written: map[string]metav1.Object{}}
}

// Set takes all objects that there should be. Nobody changes them afterwards.
func (w *Writer) Set(objects []metav1.Object) {
	wanted := make(map[string]metav1.Object, len(objects))
	for _, o := range objects {
		wanted[o.GetName()] = o
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wanted != nil && reflect.DeepEqual(w.wanted, wanted) {
		return
	}
	w.wanted = wanted
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and then what was said last.
func (w *Writer) Run(ctx context.Context) error {
	again := time.NewTimer(relist)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			w.finish(ctx)
			return nil
		case <-w.wake:
		case <-again.C:
			w.known = false
		}
		pause := relist
		err := w.sync(ctx)
		w.failed = err != nil
		if err != nil {
			w.log.Debug("What this node announces isn't told in the API; trying again", "kind", w.resource.Resource, "error", err)
			pause = retry
		}
		again.Reset(pause)
	}
}

// finish writes what a stopping agent said last.
func (w *Writer) finish(ctx context.Context) {
	select {
	case <-w.wake:
	default:
		if !w.failed { // ctx ended while it was written
			return
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), w.last)
	defer cancel()
	if err := w.sync(ctx); err != nil {
		w.log.Debug("What this node no longer announces is still told in the API", "kind", w.resource.Resource, "error", err)
	}
}

// sync makes the API's objects those that are wanted. It gives up when there is newer to write.
func (w *Writer) sync(ctx context.Context) error {
	w.mu.Lock()
	wanted := w.wanted
	w.mu.Unlock()
	if wanted == nil {
		return nil
	}
	if err := w.learn(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(w.written)) {
		if wanted[name] != nil {
			continue
		}
		if err := metallb.Delete(ctx, w.client, w.resource, name); err != nil {
			return err
		}
		delete(w.written, name)
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if is := w.written[name]; is != nil && reflect.DeepEqual(is, wanted[name]) {
			continue
		}
		if len(w.wake) > 0 {
			return nil
		}
		if err := metallb.Apply(ctx, w.client, wanted[name]); err != nil {
			w.known = false // it may have been written
			return err
		}
		w.written[name] = wanted[name]
	}
	return nil
}

// learn finds the objects that there are: of earlier runs, and which of ours are gone.
func (w *Writer) learn(ctx context.Context) error {
	if w.known {
		return nil
	}
	list, err := w.client.Resource(w.resource).Namespace(core.Namespace).
		List(ctx, metav1.ListOptions{LabelSelector: core.NodeLabel(w.resource.Resource) + "=" + core.LabelValue(w.node)})
	if err != nil {
		return fmt.Errorf("list %s: %w", w.resource.Resource, err)
	}
	there := make(map[string]metav1.Object, len(list.Items))
	for i := range list.Items {
		name := list.Items[i].GetName()
		there[name] = w.written[name]
	}
	w.written, w.known = there, true
	return nil
}
