package machines

import (
	"context"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
	"portico.dev/portico/internal/core/machine"
	"portico.dev/portico/internal/kubevirt"
)

// workers of each of the two queues: enough to hide the latency of writes.
const workers = 4

// Deps is what Run needs.
type Deps struct {
	Client   kubernetes.Interface
	Machines kubevirt.Interface
	Caches   *caches.Shared       // of the term; nil: its own
	Recorder record.EventRecorder // nil: no events
	Log      *slog.Logger
	Clock    clock.WithTicker // nil: the real one
}

// key names a machine and its instance, which bear one name.
type key = types.NamespacedName

// controller is one term of the controller.
type controller struct {
	Deps
	machineQueue, instanceQueue *work.Queue[key]
	machines, instances, pods   cache.Indexer
}

// Run keeps machines, instances and pods together until ctx ends. An error means
// that it could not begin.
func Run(ctx context.Context, d Deps) error {
	if d.Clock == nil {
		d.Clock = clock.RealClock{}
	}
	if d.Recorder == nil {
		d.Recorder = silent{}
	}
	view := caches.Open(ctx, d.Client, d.Caches)
	defer view.Close()
	machines := kubevirt.NewMachineInformer(d.Machines, metav1.NamespaceAll)
	instances := kubevirt.NewInstanceInformer(d.Machines, metav1.NamespaceAll)
	pods := view.Core().V1().Pods().Informer()
	c := newController(d, machines.GetIndexer(), instances.GetIndexer(), pods.GetIndexer())
	view.OnAny(machines, c.machineSeen)
	view.OnAny(instances, c.instanceSeen)
	view.OnAny(pods, c.podSeen)
	view.Own(machines)
	view.Own(instances)
	if ok, err := view.Ready(); !ok {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.machineQueue.Run(ctx, workers, c.syncMachine) })
	c.instanceQueue.Run(ctx, workers, c.syncInstance)
	return nil
}

// silent is a recorder that drops events.
type silent struct{}

func (silent) Event(runtime.Object, string, string, string)          {}
func (silent) Eventf(runtime.Object, string, string, string, ...any) {}
func (silent) AnnotatedEventf(runtime.Object, map[string]string, string, string, string, ...any) {
}

func newController(d Deps, machines, instances, pods cache.Indexer) *controller {
	return &controller{
		Deps:          d,
		machineQueue:  work.New[key]("machines", d.Log, d.Clock),
		instanceQueue: work.New[key]("instances", d.Log, d.Clock),
		machines:      machines, instances: instances, pods: pods,
	}
}

func (c *controller) machineSeen(obj any) {
	if k, ok := keyOf(obj); ok {
		c.machineQueue.Add(k)
	}
}

// instanceSeen also wakes the machine of the same name: it may own the instance,
// or wait for a foreign one to go.
func (c *controller) instanceSeen(obj any) {
	if k, ok := keyOf(obj); ok {
		c.instanceQueue.Add(k)
		c.machineQueue.Add(k)
	}
}

func (c *controller) podSeen(obj any) {
	if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = t.Obj
	}
	if pod, ok := obj.(*corev1.Pod); ok {
		if name, _, ok := machine.InstanceOf(pod); ok {
			c.instanceQueue.Add(name)
		}
	}
}

func keyOf(obj any) (key, bool) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	return key{Namespace: name.Namespace, Name: name.Name}, err == nil
}

// cached reads an object from a cache; nil: it isn't there.
func cached[T any](indexer cache.Indexer, namespace, name string) *T {
	obj, exists, err := indexer.GetByKey(namespace + "/" + name)
	if err != nil || !exists {
		return nil
	}
	return any(obj).(*T)
}

// found turns "not found" into nil.
func found[T any](obj *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return obj, nil
}

func (c *controller) liveMachine(ctx context.Context, k key) (*kubevirtv1.VirtualMachine, error) {
	return found(c.Machines.VirtualMachines(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{}))
}

func (c *controller) liveInstance(ctx context.Context, k key) (*kubevirtv1.VirtualMachineInstance, error) {
	return found(c.Machines.VirtualMachineInstances(k.Namespace).Get(ctx, k.Name, metav1.GetOptions{}))
}

// exactly is for deletes that mean this object, not a later one of its name.
func exactly(uid types.UID) metav1.DeleteOptions {
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
}

// gone says that a delete found nothing to delete: the object, or this one of
// its name, is away already.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }
