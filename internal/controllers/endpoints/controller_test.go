//lint:file-ignore SA1019 Endpoints is deprecated, and kept all the same (EP-04).

package endpoints

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	typeddiscoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"
	clienttesting "k8s.io/client-go/testing"
	testingclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/internal/apiserver/apitest"
	core "portico.dev/portico/internal/core/endpoints"
	"portico.dev/portico/test/fakewatch"
)

func service(selector map[string]string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "svc"},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.20", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: selector,
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
}

func pod(name string, ready bool) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "node-a"},
		Status: corev1.PodStatus{
			PodIPs:     []corev1.PodIP{{IP: "10.244.0." + strings.TrimPrefix(name, "pod-")}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}},
		},
	}
}

type fixture struct {
	*testing.T
	client *fake.Clientset
	clock  *testingclock.FakeClock
}

func start(t *testing.T) *fixture {
	return startWith(t, func(k kubernetes.Interface) kubernetes.Interface { return k })
}

// startWith runs the controller with a client made of the fixture's.
func startWith(t *testing.T, client func(kubernetes.Interface) kubernetes.Interface) *fixture {
	f := newFixture(t)
	f.run(client(f.client))
	return f
}

func newFixture(t *testing.T) *fixture {
	client := fake.NewClientset()
	versioned(client)
	return &fixture{T: t, client: client, clock: testingclock.NewFakeClock(time.Unix(1000, 5e6))}
}

// versioned gives what is written a version and new objects a UID, which the fake API
// doesn't; the controller tells by them what is newer.
func versioned(client *fake.Clientset) {
	var last atomic.Int64
	mark := func(action clienttesting.Action) (bool, runtime.Object, error) {
		o, err := meta.Accessor(action.(clienttesting.UpdateAction).GetObject()) // as a create's too
		if err != nil {
			return true, nil, err
		}
		n := strconv.FormatInt(last.Add(1), 10)
		o.SetResourceVersion(n)
		if o.GetUID() == "" {
			o.SetUID(types.UID("uid-" + n))
		}
		return false, nil, nil
	}
	client.PrependReactor("create", "*", mark)
	client.PrependReactor("update", "*", mark)
}

// run runs the controller until the test ends.
func (f *fixture) run(client kubernetes.Interface) {
	ctx, cancel := context.WithCancel(f.Context())
	done := make(chan error)
	go func() {
		done <- Run(ctx, Deps{Client: client, Log: slog.New(slog.DiscardHandler), Clock: f.clock})
	}()
	f.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.Error(err)
		}
	})
}

// state prints what slices and Endpoints say.
func (f *fixture) state() string {
	var out []string
	list, err := f.client.DiscoveryV1().EndpointSlices("ns").List(f.Context(), metav1.ListOptions{})
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range list.Items {
		line := "slice"
		if s.Labels[discoveryv1.LabelManagedBy] == core.ManagedByMirror {
			line = "mirror"
		}
		for _, e := range s.Endpoints {
			line += fmt.Sprintf(" %s=%v", e.Addresses[0], *e.Conditions.Ready)
			if e.Zone != nil {
				line += "@" + *e.Zone
			}
		}
		out = append(out, line)
	}
	if e, err := f.client.CoreV1().Endpoints("ns").Get(f.Context(), "web", metav1.GetOptions{}); err == nil {
		line := "v1"
		for _, s := range e.Subsets {
			for _, a := range s.Addresses {
				line += " " + a.IP
			}
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// patience is how long a state may take to come on a busy machine.
const patience = 30 * time.Second

// until waits for a state; the fake API has no way to say when all is done.
func (f *fixture) until(want string) {
	f.Helper()
	deadline := time.Now().Add(patience)
	got := ""
	for time.Now().Before(deadline) {
		if got = f.state(); got == want {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	f.Fatalf("got  %s\nwant %s", got, want)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// EP-01, EP-04, EP-07: from events to slices.
func TestPodsToSlices(t *testing.T) {
	f := start(t)
	ctx, core1 := t.Context(), f.client.CoreV1()
	must(core1.Services("ns").Create(ctx, service(map[string]string{"app": "web"}), metav1.CreateOptions{}))
	f.until("slice; v1")
	must(core1.Pods("ns").Create(ctx, pod("pod-1", true), metav1.CreateOptions{}))
	f.until("slice 10.244.0.1=true; v1 10.244.0.1")
	list := must(f.client.DiscoveryV1().EndpointSlices("ns").List(ctx, metav1.ListOptions{}))
	if got := list.Items[0].Annotations[corev1.EndpointsLastChangeTriggerTime]; got != "1970-01-01T00:16:40.005Z" {
		t.Errorf("trigger time %q", got)
	}
	must(core1.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}, metav1.CreateOptions{}))
	f.until("slice 10.244.0.1=true@z1; v1 10.244.0.1")
	must(core1.Nodes().Update(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-a", Labels: map[string]string{corev1.LabelTopologyZone: "z2"}}}, metav1.UpdateOptions{}))
	f.until("slice 10.244.0.1=true@z2; v1 10.244.0.1")
	must(core1.Pods("ns").UpdateStatus(ctx, pod("pod-1", false), metav1.UpdateOptions{}))
	f.until("slice 10.244.0.1=false@z2; v1")
	must(core1.Pods("ns").Create(ctx, pod("pod-2", true), metav1.CreateOptions{}))
	f.until("slice 10.244.0.1=false@z2 10.244.0.2=true@z2; v1 10.244.0.2")
	renamed := pod("pod-2", true)
	renamed.Labels = map[string]string{"app": "other"}
	must(core1.Pods("ns").Update(ctx, renamed, metav1.UpdateOptions{}))
	f.until("slice 10.244.0.1=false@z2; v1")

	// A slice deleted by somebody comes back, and nothing else is written.
	if err := f.client.DiscoveryV1().EndpointSlices("ns").Delete(ctx, list.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.until("slice 10.244.0.1=false@z2; v1")

	// The Service's Endpoints go with it; its slices are the garbage controller's.
	if err := core1.Services("ns").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.until("slice 10.244.0.1=false@z2")
}

// slow is a client whose creates of slices or of Endpoints objects wait.
type slow struct {
	kubernetes.Interface
	slices, objects *gate
}

// gate lets callers through once it is open; none always does.
type gate struct {
	open chan struct{}
	came atomic.Int32 // callers
}

func newGate() *gate { return &gate{open: make(chan struct{})} }

func (g *gate) pass() {
	if g != nil {
		g.came.Add(1)
		<-g.open
	}
}

// IsWatchListSemanticsUnSupported passes on that the fake has no streaming lists.
func (s slow) IsWatchListSemanticsUnSupported() bool { return true }

func (s slow) CoreV1() typedcorev1.CoreV1Interface {
	return slowCore{s.Interface.CoreV1(), s.objects}
}

func (s slow) DiscoveryV1() typeddiscoveryv1.DiscoveryV1Interface {
	return slowDiscovery{s.Interface.DiscoveryV1(), s.slices}
}

type slowCore struct {
	typedcorev1.CoreV1Interface
	gate *gate
}

func (s slowCore) Endpoints(namespace string) typedcorev1.EndpointsInterface {
	return slowEndpoints{s.CoreV1Interface.Endpoints(namespace), s.gate}
}

type slowEndpoints struct {
	typedcorev1.EndpointsInterface
	gate *gate
}

func (s slowEndpoints) Create(ctx context.Context, e *corev1.Endpoints, o metav1.CreateOptions) (*corev1.Endpoints, error) {
	s.gate.pass()
	return s.EndpointsInterface.Create(ctx, e, o)
}

type slowDiscovery struct {
	typeddiscoveryv1.DiscoveryV1Interface
	gate *gate
}

func (s slowDiscovery) EndpointSlices(namespace string) typeddiscoveryv1.EndpointSliceInterface {
	return slowSlices{s.DiscoveryV1Interface.EndpointSlices(namespace), s.gate}
}

type slowSlices struct {
	typeddiscoveryv1.EndpointSliceInterface
	gate *gate
}

func (s slowSlices) Create(ctx context.Context, e *discoveryv1.EndpointSlice, o metav1.CreateOptions) (*discoveryv1.EndpointSlice, error) {
	s.gate.pass()
	return s.EndpointSliceInterface.Create(ctx, e, o)
}

// many makes Services, and says what their slices are.
func (f *fixture) many(n int) string {
	var slices []string
	for i := range n {
		s := service(map[string]string{"app": "web"})
		s.Name, s.UID = fmt.Sprintf("web-%d", i), types.UID(fmt.Sprint(i))
		slices = append(slices, "slice")
		must(f.client.CoreV1().Services("ns").Create(f.Context(), s, metav1.CreateOptions{}))
	}
	return strings.Join(slices, "; ")
}

// objects is how many Endpoints objects there are.
func (f *fixture) objects() int {
	return len(must(f.client.CoreV1().Endpoints("ns").List(f.Context(), metav1.ListOptions{})).Items)
}

// objectsUntil waits for so many, trying before each look.
func (f *fixture) objectsUntil(n int, try func()) {
	f.Helper()
	apitest.Eventually(f.T, "the Endpoints objects", func() error {
		try()
		if got := f.objects(); got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

// Slices wait for no Endpoints object, their own Service's or another's.
func TestSlicesComeFirst(t *testing.T) {
	closed := newGate()
	f := startWith(t, func(k kubernetes.Interface) kubernetes.Interface { return slow{Interface: k, objects: closed} })
	const services = 20
	f.until(f.many(services))
	close(closed.open)
	f.objectsUntil(services, func() {})
}

// While Services wait for their slices Endpoints objects are written slowly, and all
// once none waits.
func TestRestGivesWay(t *testing.T) {
	closed := newGate()
	release := sync.OnceFunc(func() { close(closed.open) })
	f := newFixture(t)
	const services = 20
	slices := f.many(services) // all wait from the beginning
	f.run(slow{Interface: f.client, slices: closed})
	t.Cleanup(release) // before the controller is waited for
	apitest.Eventually(t, "workers at slices", func() error {
		if n := int(closed.came.Load()); n < workers() {
			return fmt.Errorf("%d of %d", n, workers())
		}
		return nil
	})
	if got := f.objects(); got > 0 {
		t.Errorf("%d Endpoints objects at once", got)
	}
	f.objectsUntil(1, func() { f.clock.Step(restPace) })
	release()
	f.until(slices)
	f.objectsUntil(services, func() {})
}

// An Endpoints object waits for its own Service's slices, which no longer wait for a worker.
func TestRestWaitsForItsSlices(t *testing.T) {
	closed := newGate()
	release := sync.OnceFunc(func() { close(closed.open) })
	f := newFixture(t)
	var released atomic.Bool
	f.client.PrependReactor("create", "endpoints", func(clienttesting.Action) (bool, runtime.Object, error) {
		if !released.Load() {
			t.Error("the Endpoints object came first")
		}
		return false, nil, nil
	})
	f.many(1)
	f.run(slow{Interface: f.client, slices: closed})
	t.Cleanup(release) // before the controller is waited for
	apitest.Eventually(t, "a worker at the slices", func() error {
		if closed.came.Load() == 0 {
			return errors.New("none")
		}
		return nil
	})
	released.Store(true)
	release()
	f.objectsUntil(1, func() {})
}

// EP-05: Endpoints made by hand are mirrored, and left alone.
func TestHandWritten(t *testing.T) {
	f := newFixture(t)
	watched := fakewatch.Of(t, f.client, "endpoints")
	f.run(f.client)
	ctx := t.Context()
	must(f.client.CoreV1().Services("ns").Create(ctx, service(nil), metav1.CreateOptions{}))
	must(f.client.CoreV1().Endpoints("ns").Create(ctx, &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "hand"},
		Subsets:    []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}}},
	}, metav1.CreateOptions{}))
	f.until("mirror 192.0.2.1=true; v1 192.0.2.1")
	watched()
	if err := f.client.CoreV1().Endpoints("ns").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	f.until("")
}

// EP-06: the condition comes after a while and goes at once.
func TestUnmatchedCondition(t *testing.T) {
	f := start(t)
	ctx, core1 := t.Context(), f.client.CoreV1()
	must(core1.Services("ns").Create(ctx, service(map[string]string{"app": "wep"}), metav1.CreateOptions{}))
	must(core1.Pods("ns").Create(ctx, pod("pod-1", true), metav1.CreateOptions{}))
	f.until("slice; v1")
	condition := func() string {
		for _, c := range must(core1.Services("ns").Get(ctx, "web", metav1.GetOptions{})).Status.Conditions {
			return c.Type + ": " + c.Message
		}
		return ""
	}
	if got := condition(); got != "" {
		t.Errorf("too early: %s", got)
	}
	want := "portico.dev/EndpointsMatched: the selector app=wep matches no pod; closest is pod pod-1, which has app=web instead of wep"
	deadline := time.Now().Add(patience)
	for condition() != want {
		if time.Now().After(deadline) {
			t.Fatalf("condition %q", condition())
		}
		f.clock.Step(firstLook)
		time.Sleep(2 * time.Millisecond)
	}
	svc := must(core1.Services("ns").Get(ctx, "web", metav1.GetOptions{}))
	svc.Spec.Selector = map[string]string{"app": "web"}
	must(core1.Services("ns").Update(ctx, svc, metav1.UpdateOptions{}))
	f.until("slice 10.244.0.1=true; v1 10.244.0.1")
	deadline = time.Now().Add(patience)
	for condition() != "" {
		if time.Now().After(deadline) {
			t.Fatalf("condition %q", condition())
		}
		time.Sleep(2 * time.Millisecond)
	}
}
