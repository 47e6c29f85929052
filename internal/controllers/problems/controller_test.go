package problems

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	testingclock "k8s.io/utils/clock/testing"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/work"
	"portico.dev/portico/internal/core/routing"
)

const ns = "default"

func ptr[T any](v T) *T { return &v }

// run runs the controller until the test ends.
func run(t *testing.T, d Deps) {
	d.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, d) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func slice(name, of string, family discoveryv1.AddressType, port *int32, addrs ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: ns},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Protocol: ptr(corev1.ProtocolTCP), Port: port}},
	}
	if of != "" {
		s.Labels = map[string]string{discoveryv1.LabelServiceName: of}
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

// api is the API as the tests use it.
type api struct {
	testing.TB
	kubernetes.Interface
}

func (a api) create(objects ...any) {
	a.Helper()
	for _, o := range objects {
		var err error
		switch o := o.(type) {
		case *corev1.Service:
			_, err = a.CoreV1().Services(ns).Create(a.Context(), o, metav1.CreateOptions{})
		case *discoveryv1.EndpointSlice:
			_, err = a.DiscoveryV1().EndpointSlices(ns).Create(a.Context(), o, metav1.CreateOptions{})
		}
		if err != nil {
			a.Fatal(err)
		}
	}
}

// condition is what a Service's condition says, "" when there is none.
func (a api) condition(name string) string {
	a.Helper()
	svc, err := a.CoreV1().Services(ns).Get(a.Context(), name, metav1.GetOptions{})
	if err != nil {
		a.Fatal(err)
	}
	if c := meta.FindStatusCondition(svc.Status.Conditions, routing.ServedCondition); c != nil {
		return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
	}
	return ""
}

// says waits for a condition with these words.
func (a api) says(name string, words ...string) {
	a.Helper()
	apitest.Eventually(a, "the condition of "+name, func() error {
		got := a.condition(name)
		for _, w := range words {
			if !strings.Contains(got, w) {
				return fmt.Errorf("got %q, want %q in it", got, w)
			}
		}
		return nil
	})
}

// mended waits until a Service has no condition.
func (a api) mended(name string) {
	a.Helper()
	apitest.Eventually(a, "the end of the condition of "+name, func() error {
		if got := a.condition(name); got != "" {
			return fmt.Errorf("it still says %q", got)
		}
		return nil
	})
}

// event waits for a warning on an object with these words.
func (a api) event(kind, name string, words ...string) {
	a.Helper()
	apitest.Eventually(a, "an event on "+kind+" "+name, func() error {
		list, err := a.CoreV1().Events(ns).List(a.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			text := e.Type + " " + e.Reason + ": " + e.Message
			seen = append(seen, e.InvolvedObject.Kind+" "+e.InvolvedObject.Name+": "+text)
			if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
				return nil
			}
		}
		return fmt.Errorf("want %q, there are %q", words, seen)
	})
}

func (a api) update(name string, change func(*corev1.Service)) {
	a.Helper()
	apitest.Eventually(a, "update of "+name, func() error { // the controller writes too
		svc, err := a.CoreV1().Services(ns).Get(a.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(svc)
		_, err = a.CoreV1().Services(ns).Update(a.Context(), svc, metav1.UpdateOptions{})
		return err
	})
}

func (a api) deleteSlice(name string) {
	a.Helper()
	if err := a.DiscoveryV1().EndpointSlices(ns).Delete(a.Context(), name, metav1.DeleteOptions{}); err != nil {
		a.Fatal(err)
	}
}

func at(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.ExternalIPs = ips }
}

// Objects that our API server lets in, as others do, and that can't be served: each is
// told on its Service, with field and remedy, until it is mended. DP-06
func TestOnARealServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an API server")
	}
	server := apitest.Start(t)
	a := api{t, server.Kube}
	if _, err := a.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	broadcaster := record.NewBroadcaster()
	t.Cleanup(broadcaster.Shutdown)
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.CoreV1().Events("")})
	run(t, Deps{Client: a, Recorder: broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "test"})})

	first, err := a.CoreV1().Services(ns).Create(t.Context(), service("first", at("198.51.100.6", "198.51.100.7")), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The age of a Service has the resolution of a second.
	apitest.Eventually(t, "the next second", func() error {
		if time.Now().Before(first.CreationTimestamp.Add(time.Second)) {
			return fmt.Errorf("it is still that in which the first Service was made")
		}
		return nil
	})
	a.create(
		service("second", at("198.51.100.7", "198.51.100.8")),
		service("thief", at(first.Spec.ClusterIP)),
		service("balanced", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }),
		service("twice"), slice("twice-1", "twice", discoveryv1.AddressTypeIPv4, ptr(int32(8080)), "10.1.0.1", "10.1.0.2"), slice("twice-2", "twice", discoveryv1.AddressTypeIPv4, ptr(int32(8080)), "10.1.0.2"),
		service("portless"), slice("portless-1", "portless", discoveryv1.AddressTypeIPv4, nil, "10.1.0.1"), slice("portless-2", "portless", discoveryv1.AddressTypeIPv4, ptr(int32(65536+80)), "10.1.0.2"),
		service("mapped"), slice("mapped-1", "mapped", discoveryv1.AddressTypeIPv6, ptr(int32(8080)), "fd00:1::1", "::ffff:10.1.0.1"),
		service("sound"), slice("sound-1", "sound", discoveryv1.AddressTypeIPv4, ptr(int32(8080)), "10.1.0.1"),
		slice("orphan", "", discoveryv1.AddressTypeIPv4, ptr(int32(8080)), "10.1.0.1"),
	)
	balanced, err := a.CoreV1().Services(ns).Get(t.Context(), "balanced", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.6"}, {IP: "127.0.0.1"}}
	if _, err := a.CoreV1().Services(ns).UpdateStatus(t.Context(), balanced, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	a.says("second", "False AddressTaken", "spec.externalIPs", "TCP 198.51.100.7:80", "Service default/first", "older", "choose another")
	a.says("thief", "False AddressTaken", "spec.externalIPs", "cluster IP")
	a.says("balanced", "False BadAddress", "is served for Service default/first", "status.loadBalancer.ingress", "198.51.100.6:80", "status.loadBalancer.ingress[1].ip", `"127.0.0.1"`)
	a.says("twice", "False DuplicateEndpoint", "EndpointSlice default/twice-2", "endpoints[10.1.0.2:8080]", "EndpointSlice twice-1 too", "remove one")
	a.says("portless", "EndpointSlice default/portless-1, ports[0].port", "unset", "EndpointSlice default/portless-2, ports[0].port", "65616", "from 1 to 65535")
	a.says("mapped", "False WrongFamily", "endpoints[1].addresses", "::ffff:10.1.0.1", "move it")
	a.event("Service", "second", "Warning AddressTaken", "198.51.100.7:80")
	a.event("Service", "portless", "Warning", "and 2 more", routing.ServedCondition)
	a.event("EndpointSlice", "orphan", "Warning NoService", discoveryv1.LabelServiceName)
	for _, name := range []string{"first", "sound"} {
		if got := a.condition(name); got != "" {
			t.Errorf("%s has nothing wrong, and says %q", name, got)
		}
	}

	// Mended, by whoever can: the condition goes.
	if err := a.CoreV1().Services(ns).Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	a.mended("second")
	a.mended("thief") // the address is nobody's now
	apitest.Eventually(t, "the end of what the free address had", func() error {
		if got := a.condition("balanced"); strings.Contains(got, "is served for") || !strings.Contains(got, "127.0.0.1") {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	a.deleteSlice("twice-2")
	a.mended("twice")
	a.update("portless", func(s *corev1.Service) {
		s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "other"}
	})
	a.mended("portless")
	a.deleteSlice("mapped-1")
	a.mended("mapped")
}

// An endpoint that stands in two slices while it moves is no news; after a while it is.
func TestSettles(t *testing.T) {
	clk := testingclock.NewFakeClock(time.Unix(1000, 0))
	svc := service("moves", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.1"} })
	client := fake.NewClientset(svc)
	c := &controller{
		Deps:  Deps{Client: client, Clock: clk},
		queue: work.New[types.NamespacedName]("test", slog.New(slog.DiscardHandler), clk), claims: routing.NewTable(), since: map[types.NamespacedName]time.Time{},
		services: cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil),
		slices:   cache.NewIndexer(cache.MetaNamespaceKeyFunc, caches.SlicesByService()),
	}
	from := slice("moves-1", "moves", discoveryv1.AddressTypeIPv4, ptr(int32(8080)), "10.1.0.1")
	to := slice("moves-2", "moves", discoveryv1.AddressTypeIPv4, ptr(int32(8080)), "10.1.0.1")
	store := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	writes := func() (n int) {
		t.Helper()
		if err := c.sync(t.Context(), types.NamespacedName{Namespace: ns, Name: "moves"}); err != nil {
			t.Fatal(err)
		}
		for _, action := range client.Actions() {
			if action.Matches("update", "services/status") {
				n++
			}
		}
		return n
	}
	store(c.services.Add(svc))
	store(c.slices.Add(from))
	for _, step := range []struct {
		name  string
		do    func() error
		after time.Duration
		want  int
	}{
		{"well", func() error { return nil }, 0, 0},
		{"in both", func() error { return c.slices.Add(to) }, time.Minute, 0},
		{"still in both", func() error { return nil }, settle - 1, 0},
		{"moved", func() error { return c.slices.Delete(from) }, 0, 0},
		{"in both again: the time begins anew", func() error { return c.slices.Add(from) }, time.Minute, 0},
		{"a moment too early", func() error { return nil }, settle - 1, 0},
		{"for too long", func() error { return nil }, 1, 1},
	} {
		clk.Step(step.after)
		store(step.do())
		if n := writes(); n != step.want {
			t.Errorf("%s: %d writes, want %d", step.name, n, step.want)
		}
	}
}
