package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers"
	"portico.dev/portico/internal/controllers/loadbalancers"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/core/pools"
	"portico.dev/portico/internal/metallb"
	"portico.dev/portico/test/journal"
)

// stranger is an API server whose controllers know nothing of load balancers.
type stranger struct {
	*testing.T
	config  *rest.Config
	kube    kubernetes.Interface
	objects dynamic.Interface
}

func newStranger(t *testing.T, config *rest.Config) *stranger {
	t.Helper()
	s := &stranger{T: t, config: config}
	var err error
	if s.kube, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if s.objects, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"default", "kube-system"} {
		_, err := s.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	return s
}

// agent runs the part of an agent that gives addresses.
func (s *stranger) agent(node string) (log *journal.Log, stop func()) {
	s.Helper()
	o := &options{nodeName: node, cluster: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}}
	log = &journal.Log{}
	return log, apitest.Run(s, func(ctx context.Context) error {
		n := &nodeRun{o: o, config: s.config, kube: s.kube, stranger: true, log: slog.New(slog.NewTextHandler(log, nil))}
		n.ctx, n.cancel = context.WithCancelCause(ctx)
		defer n.group.Wait()
		defer n.cancel(nil)
		if err := n.startBalancer(); err != nil {
			return err
		}
		<-n.ctx.Done()
		if ctx.Err() == nil {
			return context.Cause(n.ctx)
		}
		return nil
	})
}

func says(t *testing.T, log *journal.Log, part string) {
	t.Helper()
	apitest.Eventually(t, "it says "+part, func() error {
		if text := log.String(); !strings.Contains(text, part) {
			return fmt.Errorf("it says\n%s", text)
		}
		return nil
	})
}

func (s *stranger) pool(name, addresses string) {
	s.Helper()
	apitest.Eventually(s, "make pool "+name, func() error { // once a controller has defined the kind
		_, err := s.objects.Resource(metallb.Pools).Namespace(core.Namespace).Create(s.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": map[string]any{"name": name}, "spec": map[string]any{"addresses": []any{addresses}},
		}}, metav1.CreateOptions{})
		return err
	})
}

func (s *stranger) service(name string) {
	s.Helper()
	_, err := s.kube.CoreV1().Services("default").Create(s.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
}

// has waits until a Service has an address, and what goes with it.
func (s *stranger) has(name, address string) {
	s.Helper()
	apitest.Eventually(s, name+" has "+address, func() error {
		svc, err := s.kube.CoreV1().Services("default").Get(s.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if fmt.Sprint(pools.Addresses(svc)) != "["+address+"]" || len(svc.Finalizers) != 1 || svc.Annotations[pools.FromPoolAnnotation] == "" {
			return fmt.Errorf("it has %v: %+v %+v", pools.Addresses(svc), svc.ObjectMeta, svc.Status)
		}
		return nil
	})
}

// LB-01, LB-06: on an API server that isn't ours one agent, under a Lease, defines the
// kinds and gives addresses; when it stops another goes on, and nobody's address changes.
func TestAgentsGiveAddressesOfAStranger(t *testing.T) {
	for name, server := range map[string]func(*testing.T) *rest.Config{
		"without controllers": func(t *testing.T) *rest.Config { return apitest.Start(t).Config },
		"kube-apiserver":      startKubernetes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStranger(t, server(t))
			first, stop := s.agent("a")
			s.pool("lan", "192.0.2.0-192.0.2.3")
			says(t, first, "leading")
			second, _ := s.agent("b")
			s.service("web")
			s.has("web", "192.0.2.0")
			// What is the cluster's own is nobody's to give, on either server.
			s.pool("inside", "10.96.8.0/24")
			says(t, first, "overlaps 10.96.0.0/12, the cluster IPs of ServiceCIDR kubernetes")
			stop()
			says(t, second, "leading")
			s.service("more")
			s.has("more", "192.0.2.1")
			s.has("web", "192.0.2.0")
			if err := s.kube.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			apitest.Eventually(t, "web is gone", func() error { // its finalizer, too
				_, err := s.kube.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
				if !apierrors.IsNotFound(err) {
					return fmt.Errorf("reading it gives %v", err)
				}
				return nil
			})
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Agents leave the job to whose it is: MetalLB's controller, or a Portico server's.
func TestAgentsStandBack(t *testing.T) {
	t.Parallel()
	s := newStranger(t, apitest.Start(t).Config)
	if err := metallb.Install(t.Context(), s.objects, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	crds := s.objects.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	label := func(value string) {
		t.Helper()
		patch := `{"metadata":{"labels":{"app.kubernetes.io/managed-by":` + value + `}}}`
		if _, err := crds.Patch(t.Context(), "ipaddresspools.metallb.io", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	label("null")
	s.pool("lan", "192.0.2.0-192.0.2.3")
	s.service("web")
	log, stop := s.agent("a")
	says(t, log, "the definition ipaddresspools.metallb.io is somebody else's")
	says(t, log, metallb.Mark)
	svc, err := s.kube.CoreV1().Services("default").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || len(svc.Status.Conditions)+len(svc.Status.LoadBalancer.Ingress) > 0 {
		t.Errorf("beside MetalLB: %+v, %v", svc.Status, err)
	}
	stop()
	label(`"portico"`) // as the message says
	_, stop = s.agent("a")
	s.has("web", "192.0.2.0")
	stop()

	// With a server of ours there isn't even a Lease to contend for.
	leases := s.kube.CoordinationV1().Leases(controllers.LeaseNamespace)
	if err := leases.Delete(t.Context(), balancerLease, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := leases.Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: controllers.LeaseName}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Nor where it answers only later, as after a start of all hosts.
	var away atomic.Bool
	away.Store(true)
	late := rest.CopyConfig(s.config)
	late.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if away.Swap(false) {
				return nil, errors.New("it is away")
			}
			return next.RoundTrip(r)
		})
	})
	kube, err := kubernetes.NewForConfig(late)
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{o: &options{nodeName: "a"}, kube: kube, objects: s.objects, metrics: loadbalancers.NewMetrics(), log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.run(ctx); err != nil || ctx.Err() != nil { // returns by itself
		t.Error(err, ctx.Err())
	}
	if _, err := leases.Get(t.Context(), balancerLease, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the Lease of agents: %v", err)
	}
	// And where that server came later, the work ends at the next look.
	if other, err := b.somebodyElse(t.Context()); err != nil || other == nil || !strings.Contains(other.why, "a Portico's") {
		t.Errorf("%+v, %v", other, err)
	}
}

// LB-01: MetalLB that is installed later, over definitions of ours, gets the job; when its
// controller is gone the agents go on, and no address has changed.
func TestAgentsStandBackForMetalLB(t *testing.T) {
	for name, c := range map[string]struct {
		server func(*testing.T) *rest.Config
		labels map[string]string
	}{
		"by its manifests":           {func(t *testing.T) *rest.Config { return apitest.Start(t).Config }, map[string]string{"app": "metallb", "component": "controller"}},
		"by Helm, on kube-apiserver": {startKubernetes, map[string]string{"app.kubernetes.io/name": "metallb", "app.kubernetes.io/component": "controller"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStranger(t, c.server(t))
			log := &journal.Log{}
			b := &balancer{
				o: &options{nodeName: "a"}, kube: s.kube, objects: s.objects, metrics: loadbalancers.NewMetrics(),
				log: slog.New(slog.NewTextHandler(log, nil)), look: 100 * time.Millisecond,
			}
			apitest.Run(t, b.run)
			s.pool("lan", "192.0.2.0-192.0.2.3")
			s.service("web")
			s.has("web", "192.0.2.0")

			deployments := s.kube.AppsV1().Deployments(core.Namespace)
			replicas, pods := int32(1), metav1.LabelSelector{MatchLabels: map[string]string{"x": "y"}}
			is, err := deployments.Create(t.Context(), &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Name: "controller", Labels: c.labels},
				Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &pods, Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: pods.MatchLabels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "controller", Image: "controller"}}},
				}},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			says(t, log, "MetalLB's controller does (Deployment metallb-system/controller)")
			s.service("late")
			apitest.Eventually(t, "it is an event on the Deployment", func() error {
				list, err := s.kube.CoreV1().Events(core.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.uid=" + string(is.UID)})
				if err != nil || len(list.Items) != 1 || list.Items[0].Reason != "PorticoStandsBack" {
					return fmt.Errorf("%+v, %v", list, err)
				}
				return nil
			})
			svc, err := s.kube.CoreV1().Services("default").Get(t.Context(), "late", metav1.GetOptions{})
			if err != nil || len(svc.Status.LoadBalancer.Ingress)+len(svc.Status.Conditions) > 0 {
				t.Errorf("beside MetalLB: %+v, %v", svc.Status, err)
			}

			patch := []byte(`{"spec":{"replicas":0}}`)
			if _, err := deployments.Patch(t.Context(), is.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
			s.has("late", "192.0.2.1")
			s.has("web", "192.0.2.0")
			says(t, log, "give load-balancer addresses again")
		})
	}
}
