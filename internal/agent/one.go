package agent

import (
	"context"
	"fmt"
	"log/slog"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// API is what a typed client has of one resource, in one namespace or without.
type API[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (apiwatch.Interface, error)
}

// WatchOne hands over the object of that name at first and whenever it changes, nil where
// there is none, until ctx ends. to is called from one goroutine. While the API is away the
// last stays.
func WatchOne[O object, L runtime.Object](ctx context.Context, client kubernetes.Interface, api API[L], name string, log *slog.Logger, to func(O)) {
	followOne[O](client, name, name, log, lister(api.List), api.Watch, one[O](to)).run(ctx)
}

func byName(name string) func(*metav1.ListOptions) {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	return func(o *metav1.ListOptions) { o.FieldSelector = selector }
}

// one is a cache.ReflectorStore that passes the one object on.
type one[O object] func(O)

// Add implements cache.ReflectorStore.
func (f one[O]) Add(obj any) error {
	o, ok := obj.(O)
	if !ok {
		return fmt.Errorf("the watch gave a %T", obj)
	}
	f(o)
	return nil
}

// Update implements cache.ReflectorStore.
func (f one[O]) Update(obj any) error { return f.Add(obj) }

// Delete implements cache.ReflectorStore.
func (f one[O]) Delete(any) error {
	var gone O
	f(gone)
	return nil
}

// Replace implements cache.ReflectorStore.
func (f one[O]) Replace(objs []any, _ string) error {
	if len(objs) == 0 {
		return f.Delete(nil)
	}
	return f.Add(objs[0])
}

// Resync implements cache.ReflectorStore; there is nothing to do again.
func (f one[O]) Resync() error { return nil }
