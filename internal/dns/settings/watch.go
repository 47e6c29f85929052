package settings

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Watch hands over the ConfigMap's data at first and whenever it changes, until ctx
// ends; nil where there is none. While the API is away the last stays.
func Watch(ctx context.Context, client kubernetes.Interface, log *slog.Logger, to func(data map[string]string)) error {
	maps := client.CoreV1().ConfigMaps(Namespace)
	only := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, Name).String()
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			only(&o)
			return maps.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error) {
			only(&o)
			return maps.Watch(ctx, o)
		},
	}
	logger := logr.FromSlogHandler(log.Handler())
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), &corev1.ConfigMap{}, store(to),
		cache.ReflectorOptions{Name: "dns/" + Name, Logger: &logger}).RunWithContext(ctx)
	return nil
}

// store is a cache.ReflectorStore that passes the one object on.
type store func(data map[string]string)

func (s store) put(obj any) error {
	m, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return fmt.Errorf("the watch gave a %T", obj)
	}
	s(m.Data)
	return nil
}

// Add implements cache.ReflectorStore.
func (s store) Add(obj any) error { return s.put(obj) }

// Update implements cache.ReflectorStore.
func (s store) Update(obj any) error { return s.put(obj) }

// Delete implements cache.ReflectorStore.
func (s store) Delete(any) error {
	s(nil)
	return nil
}

// Replace implements cache.ReflectorStore.
func (s store) Replace(objs []any, _ string) error {
	if len(objs) == 0 {
		return s.Delete(nil)
	}
	return s.put(objs[0])
}

// Resync implements cache.ReflectorStore; there is nothing to do again.
func (s store) Resync() error { return nil }
