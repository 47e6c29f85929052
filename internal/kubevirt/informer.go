package kubevirt

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// NewMachineInformer makes an informer of the namespace's VirtualMachines (""
// for all), indexed by namespace. Whoever makes it runs it and waits for it.
func NewMachineInformer(client Interface, namespace string) cache.SharedIndexInformer {
	return newInformer(client, client.VirtualMachines(namespace), &kubevirtv1.VirtualMachine{})
}

// NewInstanceInformer makes an informer of the namespace's instances ("" for
// all), indexed by namespace. Whoever makes it runs it and waits for it.
func NewInstanceInformer(client Interface, namespace string) cache.SharedIndexInformer {
	return newInformer(client, client.VirtualMachineInstances(namespace), &kubevirtv1.VirtualMachineInstance{})
}

func newInformer[T, L runtime.Object](client Interface, resource Resource[T, L], example runtime.Object) cache.SharedIndexInformer {
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return resource.List(ctx, opts)
		},
		WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
			return resource.Watch(ctx, opts)
		},
	}
	// No resync: everything that listens is level-triggered and sets its own timers.
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, client), example, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
}
