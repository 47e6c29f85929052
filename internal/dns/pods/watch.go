package pods

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/core/records"
)

// Consumer takes pods. Its methods are called from one goroutine, in order.
type Consumer interface {
	// ReplacePods says that these are all there are.
	ReplacePods(pods []*records.Pod)
	// UpdatePod takes one that changed, nil when it is gone or has no names any more.
	UpdatePod(name types.NamespacedName, pod *records.Pod)
}

// Which are the pods to be watched.
type Which uint8

const (
	// Machines are the pods of virtual machines.
	Machines Which = iota
	// All pods cost a watch of every change of every pod in the cluster.
	All
)

// Watch hands pods over until ctx ends. While the API is away the last ones stay. Where it
// refuses to tell of pods there are none, so that what doesn't depend on them is answered.
func Watch(ctx context.Context, client kubernetes.Interface, which Which, log *slog.Logger, to Consumer) error {
	api := client.CoreV1().Pods(metav1.NamespaceAll)
	only := func(o *metav1.ListOptions) {
		if which == Machines {
			o.LabelSelector = records.MachineLabel
		}
	}
	into := &store{to: to}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			only(&o)
			list, err := api.List(ctx, o)
			if apierrors.IsForbidden(err) && !into.told {
				into.told = true
				log.WarnContext(ctx, "Names of virtual machines are missing until this account may list and watch pods in all namespaces", "error", err)
				to.ReplacePods(nil)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			only(&o)
			return api.Watch(ctx, o)
		},
	}
	logger := logr.FromSlogHandler(log.Handler())
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), &corev1.Pod{}, into,
		cache.ReflectorOptions{Name: "dns/pods", Logger: &logger}).RunWithContext(ctx)
	return nil
}

// store is a cache.TransformingStore that passes pods on. The reflector itself has them
// translated while it collects a list that is streamed.
type store struct {
	to   Consumer
	told bool // what pods there are
}

// compact is what is left of an object.
type compact struct {
	name types.NamespacedName
	pod  *records.Pod
}

// Transformer implements cache.TransformingStore.
func (s *store) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return translate(obj) }
}

// translate takes an object, or what it made of one before.
func translate(obj any) (*compact, error) {
	switch o := obj.(type) {
	case *compact:
		return o, nil
	case *corev1.Pod:
		return &compact{types.NamespacedName{Namespace: o.Namespace, Name: o.Name}, records.FromPod(o)}, nil
	}
	return nil, fmt.Errorf("the watch gave a %T", obj)
}

// Add implements cache.ReflectorStore.
func (s *store) Add(obj any) error {
	c, err := translate(obj)
	if err == nil {
		s.to.UpdatePod(c.name, c.pod)
	}
	return err
}

// Update implements cache.ReflectorStore.
func (s *store) Update(obj any) error { return s.Add(obj) }

// Delete implements cache.ReflectorStore.
func (s *store) Delete(obj any) error {
	c, err := translate(obj)
	if err == nil {
		s.to.UpdatePod(c.name, nil)
	}
	return err
}

// Replace implements cache.ReflectorStore.
func (s *store) Replace(objs []any, _ string) error {
	var all []*records.Pod
	for _, obj := range objs {
		c, err := translate(obj)
		if err != nil {
			return err
		}
		if c.pod != nil {
			all = append(all, c.pod)
		}
	}
	s.told = true
	s.to.ReplacePods(all)
	return nil
}

// Resync implements cache.ReflectorStore; there is nothing to do again.
func (s *store) Resync() error { return nil }
