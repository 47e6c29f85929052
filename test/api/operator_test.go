package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	applymetav1 "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/workqueue"

	"portico.dev/portico/internal/apiserver/apitest"
)

var doors = schema.GroupVersionResource{Group: "example.dev", Version: "v1", Resource: "doors"}

const doorFinalizer = "example.dev/close"

// doorDefinition is the kind of an operator that gives each Door a Service.
func doorDefinition() *apiextensionsv1.CustomResourceDefinition {
	object := func(properties map[string]apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "object", Properties: properties}
	}
	one := 1.0
	root := object(map[string]apiextensionsv1.JSONSchemaProps{
		"spec":   object(map[string]apiextensionsv1.JSONSchemaProps{"port": {Type: "integer", Minimum: &one}}),
		"status": object(map[string]apiextensionsv1.JSONSchemaProps{"address": {Type: "string"}}),
	})
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "doors.example.dev"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: doors.Group, Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "doors", Singular: "door", Kind: "Door", ListKind: "DoorList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
				Schema:       &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &root},
			}},
		},
	}
}

// An operator written with client-go, as they are everywhere: it installs its kind, is
// elected by a Lease, follows its objects by a streaming list, applies what they want
// on the server's side, writes their status, and cleans up behind a finalizer (API-09).
func TestOperator(t *testing.T) {
	s := startWithDefault(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	install(t, ctx, s.Config)
	plain, err := dynamic.NewForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Resource(doors).Namespace("default").Create(ctx, door("before", 80), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	first, second := newOperator(t, s.Config, "first"), newOperator(t, s.Config, "second")
	stopFirst := first.start(t, ctx)
	awaitAddress(t, ctx, plain, "before")
	if holder := leaseHolder(t, ctx, s.Kube); holder != "first" {
		t.Errorf("the Lease is held by %q, want first", holder)
	}
	if got := first.seen(); !slices.ContainsFunc(got, streams) || slices.ContainsFunc(got, lists) {
		t.Errorf("the informer didn't stream its first list: %q", got)
	}

	// The second stands by, and takes over when the first gives the Lease back.
	stopSecond := second.start(t, ctx)
	defer stopSecond()
	stopFirst()
	if _, err := plain.Resource(doors).Namespace("default").Create(ctx, door("after", 443), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitAddress(t, ctx, plain, "after")
	if holder := leaseHolder(t, ctx, s.Kube); holder != "second" {
		t.Errorf("the Lease is held by %q, want second", holder)
	}

	t.Run("somebody else's field", func(t *testing.T) { refuseOthersField(t, ctx, s.Kube) })

	// Deleted: the object stays until the operator has removed what it made.
	if err := plain.Resource(doors).Namespace("default").Delete(ctx, "after", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	poll(t, ctx, "the door and its Service are gone", func(ctx context.Context) bool {
		_, err := plain.Resource(doors).Namespace("default").Get(ctx, "after", metav1.GetOptions{})
		_, svcErr := s.Kube.CoreV1().Services("default").Get(ctx, "after", metav1.GetOptions{})
		return apierrors.IsNotFound(err) && apierrors.IsNotFound(svcErr)
	})
}

// startWithDefault runs a server without controllers, which would make the namespace.
func startWithDefault(t *testing.T) *apitest.Server {
	t.Helper()
	s := apitest.Start(t)
	if _, err := s.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// refuseOthersField applies a selector that the operator owns, as another manager.
func refuseOthersField(t *testing.T, ctx context.Context, kube kubernetes.Interface) {
	services := kube.CoreV1().Services("default")
	other := applycorev1.Service("before", "default").WithSpec(applycorev1.ServiceSpec().WithSelector(map[string]string{"door": "other"}))
	_, err := services.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "other"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "operator": .spec.selector`) {
		t.Errorf("want a conflict over .spec.selector, got %v", err)
	}
	if _, err := services.Apply(ctx, other, metav1.ApplyOptions{FieldManager: "other", Force: true}); err != nil {
		t.Fatal(err)
	}
	svc, err := services.Get(ctx, "before", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mine, err := applycorev1.ExtractService(svc, "operator")
	if err != nil {
		t.Fatal(err)
	}
	if len(mine.Spec.Selector) != 0 || len(mine.Spec.Ports) != 1 {
		t.Errorf("the operator should own its port and no longer the selector, got %+v", mine.Spec)
	}
}

func install(t *testing.T, ctx context.Context, config *rest.Config) {
	t.Helper()
	client, err := apiextensionsclient.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	crds := client.ApiextensionsV1().CustomResourceDefinitions()
	if _, err := crds.Create(ctx, doorDefinition(), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	plain, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	poll(t, ctx, "doors are served", func(ctx context.Context) bool {
		_, err := plain.Resource(doors).List(ctx, metav1.ListOptions{})
		return err == nil
	})
}

func door(name string, port int64) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.dev/v1", "kind": "Door", "metadata": map[string]any{"name": name}, "spec": map[string]any{"port": port},
	}}
}

func awaitAddress(t *testing.T, ctx context.Context, client dynamic.Interface, name string) {
	t.Helper()
	poll(t, ctx, "door "+name+" has its address", func(ctx context.Context) bool {
		got, err := client.Resource(doors).Namespace("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false
		}
		address, _, _ := unstructured.NestedString(got.Object, "status", "address")
		return strings.HasPrefix(address, "10.")
	})
}

func leaseHolder(t *testing.T, ctx context.Context, kube kubernetes.Interface) string {
	t.Helper()
	lease, err := kube.CoordinationV1().Leases("default").Get(ctx, "operator", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return *lease.Spec.HolderIdentity
}

func poll(t *testing.T, ctx context.Context, what string, done func(context.Context) bool) {
	t.Helper()
	err := wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(ctx context.Context) (bool, error) { return done(ctx), nil })
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// operator gives each Door a Service of its name and writes the address into its status.
type operator struct {
	name    string
	kube    kubernetes.Interface
	dynamic dynamic.Interface

	mu   sync.Mutex
	urls []string // guarded by mu: what it asked for, of doors
}

func newOperator(t *testing.T, config *rest.Config, name string) *operator {
	t.Helper()
	o := &operator{name: name}
	own := rest.CopyConfig(config)
	own.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(req *http.Request) (*http.Response, error) {
			if req.Method == http.MethodGet && strings.HasSuffix(req.URL.Path, "/doors") {
				o.mu.Lock()
				o.urls = append(o.urls, req.URL.RawQuery)
				o.mu.Unlock()
			}
			return next.RoundTrip(req)
		})
	})
	var err1, err2 error
	o.kube, err1 = kubernetes.NewForConfig(own)
	o.dynamic, err2 = dynamic.NewForConfig(own)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return o
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func (o *operator) seen() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.urls)
}

func streams(query string) bool { return strings.Contains(query, "sendInitialEvents=true") }
func lists(query string) bool   { return !strings.Contains(query, "watch=true") }

// start runs for election until the returned function is called, which gives the Lease
// back and waits.
func (o *operator) start(t *testing.T, ctx context.Context) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	elected := make(chan context.Context, 1)
	lock := &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Namespace: "default", Name: "operator"},
		Client:    o.kube.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: o.name},
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 100 * time.Millisecond, ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { elected <- ctx }, // nobody waits for this goroutine
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { elector.Run(ctx) })
	running.Go(func() {
		select {
		case ctx := <-elected:
			o.lead(t, ctx)
		case <-ctx.Done():
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// lead follows Doors until ctx ends.
func (o *operator) lead(t *testing.T, ctx context.Context) {
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(o.dynamic, 0, "default", nil)
	informer := factory.ForResource(doors).Informer()
	enqueue := func(obj any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
			queue.Add(key)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: enqueue, UpdateFunc: func(_, obj any) { enqueue(obj) }, DeleteFunc: enqueue,
	}); err != nil {
		t.Error(err)
		return
	}
	factory.Start(ctx.Done())
	var ending sync.WaitGroup
	ending.Go(func() {
		<-ctx.Done()
		queue.ShutDown()
	})
	for {
		key, done := queue.Get()
		if done {
			break
		}
		_, name, _ := cache.SplitMetaNamespaceKey(key)
		if err := o.reconcile(ctx, name); err != nil {
			queue.AddRateLimited(key) // a conflict with an older object, usually
		}
		queue.Done(key)
	}
	ending.Wait()
	factory.Shutdown()
}

func (o *operator) reconcile(ctx context.Context, name string) error {
	client := o.dynamic.Resource(doors).Namespace("default")
	door, err := client.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return ignoreNotFound(err)
	}
	if door.GetDeletionTimestamp() != nil {
		if err := ignoreNotFound(o.kube.CoreV1().Services("default").Delete(ctx, name, metav1.DeleteOptions{})); err != nil {
			return err
		}
		door.SetFinalizers(slices.DeleteFunc(door.GetFinalizers(), func(f string) bool { return f == doorFinalizer }))
		_, err := client.Update(ctx, door, metav1.UpdateOptions{})
		return ignoreNotFound(err)
	}
	if !slices.Contains(door.GetFinalizers(), doorFinalizer) {
		door.SetFinalizers(append(door.GetFinalizers(), doorFinalizer))
		if door, err = client.Update(ctx, door, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	port, _, _ := unstructured.NestedInt64(door.Object, "spec", "port")
	owner := applymetav1.OwnerReference().WithAPIVersion("example.dev/v1").WithKind("Door").WithName(name).WithUID(door.GetUID()).WithController(true)
	want := applycorev1.Service(name, "default").WithOwnerReferences(owner).WithSpec(applycorev1.ServiceSpec().
		WithSelector(map[string]string{"door": name}).
		WithPorts(applycorev1.ServicePort().WithPort(int32(port)).WithProtocol(corev1.ProtocolTCP)))
	svc, err := o.kube.CoreV1().Services("default").Apply(ctx, want, metav1.ApplyOptions{FieldManager: "operator", Force: true})
	if err != nil {
		return err
	}
	if address, _, _ := unstructured.NestedString(door.Object, "status", "address"); address == svc.Spec.ClusterIP {
		return nil
	}
	if err := unstructured.SetNestedField(door.Object, svc.Spec.ClusterIP, "status", "address"); err != nil {
		return err
	}
	_, err = client.UpdateStatus(ctx, door, metav1.UpdateOptions{})
	return err
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
