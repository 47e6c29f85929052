package loadbalancers_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/loadbalancers"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/pools"
	"portico.dev/portico/internal/metallb"
)

// world is an API server with the controller.
type world struct {
	*testing.T
	*apitest.Server
	dynamic  dynamic.Interface
	recorder record.EventRecorder
	metrics  *loadbalancers.Metrics
}

func begin(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, Server: apitest.Start(t), metrics: loadbalancers.NewMetrics()}
	w.connect()
	for _, name := range []string{"default", "other"} {
		w.namespace(name, nil)
	}
	return w
}

func (w *world) connect() {
	w.Helper()
	var err error
	if w.dynamic, err = dynamic.NewForConfig(w.Config); err != nil {
		w.Fatal(err)
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: w.Kube.CoreV1().Events("")})
	w.Cleanup(broadcaster.Shutdown)
	w.recorder = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "test"})
}

// run runs the controller until the returned function or the test's end.
func (w *world) run() (stop func()) {
	return apitest.Run(w, func(ctx context.Context) error {
		return loadbalancers.Run(ctx, loadbalancers.Deps{
			Client: w.Kube, Dynamic: w.dynamic, Recorder: w.recorder, Metrics: w.metrics,
			Log:      slog.New(slog.NewTextHandler(w.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
			Reserved: []pools.Reserved{{Prefix: netip.MustParsePrefix("10.245.0.0/16"), What: "the addresses of virtual machines"}},
			Default:  []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
		})
	})
}

func (w *world) namespace(name string, labels map[string]string) {
	w.Helper()
	_, err := w.Kube.CoreV1().Namespaces().Create(w.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
}

// pool makes an IPAddressPool as soon as the kind is served.
func (w *world) pool(name string, addresses ...string) {
	w.Helper()
	list := make([]any, len(addresses))
	for i, a := range addresses {
		list[i] = a
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": map[string]any{"name": name}, "spec": map[string]any{"addresses": list},
	}}
	apitest.Eventually(w, "make pool "+name, func() error {
		_, err := w.dynamic.Resource(metallb.Pools).Namespace(core.Namespace).Create(w.Context(), object, metav1.CreateOptions{})
		return err
	})
}

func (w *world) service(name string, change ...func(*corev1.Service)) *corev1.Service {
	w.Helper()
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Annotations: map[string]string{}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	for _, f := range change {
		f(svc)
	}
	out, err := w.Kube.CoreV1().Services(svc.Namespace).Create(w.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func (w *world) get(name string) *corev1.Service {
	w.Helper()
	svc, err := w.Kube.CoreV1().Services("default").Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return svc
}

// patch is a merge patch of a Service.
func (w *world) patch(name, patch string, sub ...string) error {
	_, err := w.Kube.CoreV1().Services("default").Patch(w.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, sub...)
	return err
}

// is waits until a Service has these addresses, and all that goes with them.
func (w *world) is(name, addresses, pool string) {
	w.Helper()
	apitest.Eventually(w, "addresses of "+name, func() error {
		svc := w.get(name)
		if got := fmt.Sprint(pools.Addresses(svc)); got != "["+addresses+"]" {
			c := meta.FindStatusCondition(svc.Status.Conditions, loadbalancers.Condition)
			return fmt.Errorf("it has %s, want %s: %+v", got, addresses, c)
		}
		if svc.Annotations[pools.FromPoolAnnotation] != pool || !slices.Contains(svc.Finalizers, loadbalancers.Finalizer) || *svc.Status.LoadBalancer.Ingress[0].IPMode != corev1.LoadBalancerIPModeVIP {
			return fmt.Errorf("%+v %+v", svc.ObjectMeta, svc.Status)
		}
		return nil
	})
}

// pends waits until a Service has no address, and says why.
func (w *world) pends(name, reason, part string) {
	w.Helper()
	apitest.Eventually(w, name+" is pending", func() error {
		svc := w.get(name)
		c := meta.FindStatusCondition(svc.Status.Conditions, loadbalancers.Condition)
		if len(svc.Status.LoadBalancer.Ingress)+len(svc.Finalizers) > 0 || c == nil || c.Status != metav1.ConditionFalse || c.Reason != reason || !strings.Contains(c.Message, part) {
			return fmt.Errorf("want %s %q: %+v, condition %+v", reason, part, svc.Status.LoadBalancer, c)
		}
		return nil
	})
}

func (w *world) event(kind, name, reason, part string) {
	w.Helper()
	apitest.Eventually(w, "event "+reason+" of "+name, func() error {
		list, err := w.Kube.CoreV1().Events("").List(w.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && e.Reason == reason && strings.Contains(e.Message, part) {
				return nil
			}
		}
		return fmt.Errorf("none of %d events", len(list.Items))
	})
}

func (w *world) counts(pool string, assigned4, available4 int64) {
	w.Helper()
	apitest.Eventually(w, "counts of "+pool, func() error {
		p, err := w.dynamic.Resource(metallb.Pools).Namespace(core.Namespace).Get(w.Context(), pool, metav1.GetOptions{})
		if err != nil {
			return err
		}
		assigned, _, _ := unstructured.NestedInt64(p.Object, "status", "assignedIPv4")
		available, _, _ := unstructured.NestedInt64(p.Object, "status", "availableIPv4")
		if assigned != assigned4 || available != available4 {
			return fmt.Errorf("%d and %d, want %d and %d", assigned, available, assigned4, available4)
		}
		return nil
	})
}

func (w *world) state(result, part string) {
	w.Helper()
	apitest.Eventually(w, "ConfigurationState", func() error {
		s, err := w.dynamic.Resource(metallb.ConfigurationStates).Namespace(core.Namespace).Get(w.Context(), "controller", metav1.GetOptions{})
		if err != nil {
			return err
		}
		got, _, _ := unstructured.NestedString(s.Object, "status", "result")
		summary, _, _ := unstructured.NestedString(s.Object, "status", "errorSummary")
		if got != result || !strings.Contains(summary, part) {
			return fmt.Errorf("%s: %s", got, summary)
		}
		return nil
	})
}

func ask(addr string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Spec.LoadBalancerIP = addr }
}

// LB-01, LB-06, LB-07: addresses come, stay and go.
func TestAddressesComeStayAndGo(t *testing.T) {
	t.Parallel()
	w := begin(t)
	stop := w.run()
	w.service("web")
	w.pends("web", "NoPools", "portico pool add")
	w.event("Service", "web", "AllocationFailed", "no IPAddressPool")
	w.pool("lan", "192.0.2.1-192.0.2.2", "2001:db8::/127")
	w.is("web", "192.0.2.1", "lan")
	w.event("Service", "web", "IPAllocated", "192.0.2.1 from the IPAddressPool lan")
	if c := meta.FindStatusCondition(w.get("web").Status.Conditions, loadbalancers.Condition); c != nil {
		t.Errorf("left: %+v", c)
	}
	prefer := corev1.IPFamilyPolicyPreferDualStack
	w.service("both", func(svc *corev1.Service) { svc.Spec.IPFamilyPolicy = &prefer })
	w.is("both", "192.0.2.2 2001:db8::", "lan")
	w.counts("lan", 2, 0)
	w.state("Valid", "")

	// Another's class is another's.
	class := "example.dev/other"
	w.service("foreign", func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &class })
	own := pools.Class
	w.service("own", func(svc *corev1.Service) { svc.Spec.LoadBalancerClass = &own })
	w.pends("own", "AddressesExhausted", "all 2 IPv4 addresses of the IPAddressPool lan")
	if svc := w.get("foreign"); len(svc.Status.Conditions)+len(svc.Finalizers) > 0 {
		t.Errorf("of another class: %+v", svc)
	}

	// A deletion gives the address to who waits, through the finalizer.
	if err := w.Kube.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.is("own", "192.0.2.1", "lan")

	// A type change gives it back, and takes what was written along.
	if err := w.patch("own", `{"spec":{"type":"ClusterIP","loadBalancerClass":null}}`); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "own is bare", func() error {
		svc := w.get("own")
		if _, ok := svc.Annotations[pools.FromPoolAnnotation]; ok || len(svc.Finalizers)+len(svc.Status.LoadBalancer.Ingress) > 0 {
			return fmt.Errorf("%+v", svc)
		}
		return nil
	})
	w.counts("lan", 1, 1)

	// A new controller gives nobody what somebody has.
	stop()
	w.service("early")
	stop = w.run()
	w.is("early", "192.0.2.1", "lan")
	w.is("both", "192.0.2.2 2001:db8::", "lan")

	// Nobody loses it in the moment in which a server that starts doesn't serve pools yet.
	stop()
	before := w.get("both").ResourceVersion
	w.Stop()
	w.Server = apitest.StartIn(t, w.Dir)
	w.connect()
	w.run()
	w.service("late")
	w.pends("late", "AddressesExhausted", "lan")
	if after := w.get("both"); after.ResourceVersion != before {
		t.Errorf("written anew: %+v", after)
	}
}

// LB-01: pools change, and Services move only when their address is gone.
func TestPoolsChange(t *testing.T) {
	t.Parallel()
	w := begin(t)
	_, err := w.Kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Kube.CoreV1().Nodes().Patch(t.Context(), "a", types.MergePatchType, []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"198.51.100.1"}]}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.pool("lan", "192.0.2.0/30")
	w.service("stays", ask("192.0.2.3"))
	w.service("moves")
	w.is("moves", "192.0.2.0", "lan")
	w.is("stays", "192.0.2.3", "lan")
	patch := func(pool, patch string) {
		t.Helper()
		if _, err := w.dynamic.Resource(metallb.Pools).Namespace(core.Namespace).Patch(t.Context(), pool, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch("lan", `{"spec":{"addresses":["192.0.2.2-192.0.2.9"]}}`)
	w.is("moves", "192.0.2.2", "lan")
	w.is("stays", "192.0.2.3", "lan")

	// The node's and the guests' addresses are refused, and those of an older pool.
	w.pool("wrong", "198.51.100.0/31", "10.245.7.0/24", "192.0.2.8-192.0.2.11")
	w.state("Invalid", "198.51.100.1/32, the address of node a")
	w.state("Invalid", "10.245.0.0/16, the addresses of virtual machines")
	w.state("Invalid", "belong to the older IPAddressPool lan")
	w.event("IPAddressPool", "wrong", "RangeIgnored", "virtual machines")
	w.counts("wrong", 0, 3)
	w.service("refused", ask("10.245.7.1"))
	w.pends("refused", "AddressNotInPool", "10.245.7.1 is in no IPAddressPool")

	// Without its pool a Service has nothing, and says so.
	if err := w.dynamic.Resource(metallb.Pools).Namespace(core.Namespace).Delete(t.Context(), "lan", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.is("moves", "198.51.100.0", "wrong")
	w.pends("stays", "AddressNotInPool", "192.0.2.3 is in no IPAddressPool")
	// A namespace's label can be what a pool waits for.
	patch("wrong", `{"spec":{"serviceAllocation":{"namespaceSelectors":[{"matchLabels":{"lb":"yes"}}]}}}`)
	w.pends("moves", "PoolNotAllowed", "wrong")
	if _, err := w.Kube.CoreV1().Namespaces().Patch(t.Context(), "default", types.MergePatchType, []byte(`{"metadata":{"labels":{"lb":"yes"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.is("moves", "198.51.100.0", "wrong")
}

// LB-01, ALLOC-03: two controllers that think both to have the Lease give no address twice;
// the store refuses the second.
func TestTwoControllersAtOnce(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.run()
	w.run()
	w.pool("lan", "192.0.2.0/28")
	const n = 16
	for i := range n {
		w.service(fmt.Sprint("s", i))
	}
	apitest.Eventually(t, "all have one each", func() error {
		owner := map[netip.Addr]string{}
		list, err := w.Kube.CoreV1().Services("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var errs []error
		for _, svc := range list.Items {
			addrs := pools.Addresses(&svc)
			if len(addrs) != 1 {
				errs = append(errs, fmt.Errorf("%s has %v", svc.Name, addrs))
				continue
			}
			if other := owner[addrs[0]]; other != "" {
				t.Fatalf("%s and %s have %s", other, svc.Name, addrs[0])
			}
			owner[addrs[0]] = svc.Name
		}
		return errors.Join(errs...)
	})
}
