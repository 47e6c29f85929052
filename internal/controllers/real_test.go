package controllers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers"
	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/endpoints"
	"portico.dev/portico/internal/controllers/garbage"
	"portico.dev/portico/internal/controllers/leader"
	"portico.dev/portico/internal/controllers/namespaces"
	core "portico.dev/portico/internal/core/endpoints"
)

type cluster struct {
	*testing.T
	*apitest.Server
	dynamic dynamic.Interface
}

// start runs a real API server with the controllers of this folder.
func start(t *testing.T) *cluster {
	s := apitest.Start(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	meta, err := metadata.NewForConfig(s.Config)
	must(err)
	dyn, err := dynamic.NewForConfig(s.Config)
	must(err)
	disc, err := discovery.NewDiscoveryClientForConfig(s.Config)
	must(err)
	c := &cluster{T: t, Server: s, dynamic: dyn}
	c.namespace("kube-system")
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- controllers.Run(ctx, controllers.Config{
			Lease:  leader.Config{Leases: s.Kube.CoordinationV1(), Identity: "test"},
			Client: s.Kube,
			Log:    log,
		}, func(shared *caches.Shared) []controllers.Controller {
			return []controllers.Controller{
				{Name: "endpoints", Run: func(ctx context.Context) error {
					return endpoints.Run(ctx, endpoints.Deps{Client: s.Kube, Caches: shared, Log: log})
				}},
				{Name: "garbage", Run: func(ctx context.Context) error {
					return garbage.Run(ctx, garbage.Deps{Metadata: meta, Discovery: disc, Log: log})
				}},
				{Name: "namespaces", Run: func(ctx context.Context) error {
					return namespaces.Run(ctx, namespaces.Deps{Client: s.Kube, Caches: shared, Metadata: meta, Discovery: disc, Log: log})
				}},
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *cluster) namespace(name string) {
	c.Helper()
	_, err := c.Kube.CoreV1().Namespaces().Create(c.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		c.Fatal(err)
	}
}

// eventually waits until check returns "".
func (c *cluster) eventually(what string, check func() string) {
	c.Helper()
	last := ""
	err := wait.PollUntilContextTimeout(c.Context(), 5*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		last = check()
		return last == "", nil
	})
	if err != nil {
		c.Fatalf("%s: %s", what, last)
	}
}

func (c *cluster) service(namespace, name string) *corev1.Service {
	c.Helper()
	dual := corev1.IPFamilyPolicyPreferDualStack
	svc, err := c.Kube.CoreV1().Services(namespace).Create(c.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name}, IPFamilyPolicy: &dual,
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(9376)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return svc
}

// pod makes a pod with addresses, as a node's agent would.
func (c *cluster) pod(namespace, app string, n int) {
	c.Helper()
	name := fmt.Sprintf("%s-%d", app, n)
	_, err := c.Kube.CoreV1().Pods(namespace).Create(c.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.Fatal(err)
	}
	c.status(namespace, name, func(s *corev1.PodStatus) {
		s.Phase = corev1.PodRunning
		v4, v6 := fmt.Sprintf("10.245.%d.%d", n/200, n%200+2), fmt.Sprintf("fd00:10:245::%x", n+2)
		s.PodIP, s.PodIPs = v4, []corev1.PodIP{{IP: v4}, {IP: v6}}
		s.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	})
}

func (c *cluster) status(namespace, name string, change func(*corev1.PodStatus)) {
	c.Helper()
	pod, err := c.Kube.CoreV1().Pods(namespace).Get(c.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	change(&pod.Status)
	if _, err := c.Kube.CoreV1().Pods(namespace).UpdateStatus(c.Context(), pod, metav1.UpdateOptions{}); err != nil {
		c.Fatal(err)
	}
}

func ready(is bool) func(*corev1.PodStatus) {
	return func(s *corev1.PodStatus) {
		s.Conditions[0].Status = corev1.ConditionFalse
		if is {
			s.Conditions[0].Status = corev1.ConditionTrue
		}
	}
}

// said is what slices say, without their names.
func said(list []*discoveryv1.EndpointSlice) string {
	var out []string
	for _, s := range list {
		for _, e := range s.Endpoints {
			out = append(out, fmt.Sprintf("%s %s ready=%v port=%d", s.AddressType, e.Addresses[0], *e.Conditions.Ready, *s.Ports[0].Port))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func (c *cluster) slices(namespace string) []*discoveryv1.EndpointSlice {
	c.Helper()
	list, err := c.Kube.DiscoveryV1().EndpointSlices(namespace).List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	var out []*discoveryv1.EndpointSlice
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out
}

// EP-01, EP-02, EP-03, EP-04, EP-07, API-09, API-13 on a real API server.
func TestOnARealServer(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an API server")
	}
	c := start(t)
	t.Run("endpoints", func(t *testing.T) { (&cluster{t, c.Server, c.dynamic}).endpoints() })
	t.Run("owners", func(t *testing.T) { (&cluster{t, c.Server, c.dynamic}).owners() })
	t.Run("custom owners", func(t *testing.T) { (&cluster{t, c.Server, c.dynamic}).customOwners() })
	t.Run("namespaces", func(t *testing.T) { (&cluster{t, c.Server, c.dynamic}).namespaces() })
}

func (c *cluster) endpoints() {
	const ns = "endpoints"
	c.namespace(ns)
	svc := c.service(ns, "web")
	c.eventually("empty slices of both families", func() string {
		if n := len(c.slices(ns)); n != 2 {
			return fmt.Sprintf("%d slices", n)
		}
		return ""
	})
	for n := range 5 {
		c.pod(ns, "web", n)
	}
	want := func() string {
		pods, err := c.Kube.CoreV1().Pods(ns).List(c.Context(), metav1.ListOptions{})
		if err != nil {
			c.Fatal(err)
		}
		var list []*corev1.Pod
		for i := range pods.Items {
			list = append(list, &pods.Items[i])
		}
		return said(core.Slices(core.Input{Service: svc, Pods: list}).Create)
	}
	same := func() string {
		if got, want := said(c.slices(ns)), want(); got != want {
			return fmt.Sprintf("got\n%s\nwant\n%s", got, want)
		}
		return ""
	}
	c.eventually("five pods", same)
	c.loss(ns)

	watch, err := c.Kube.DiscoveryV1().EndpointSlices(ns).Watch(c.Context(), metav1.ListOptions{ResourceVersion: c.version(ns)})
	if err != nil {
		c.Fatal(err)
	}
	writes := make(chan int)
	go func() {
		n := 0
		for range watch.ResultChan() {
			n++
		}
		writes <- n
	}()
	rng := rand.New(rand.NewPCG(1, 2))
	const changes = 60
	for range changes {
		c.status(ns, fmt.Sprintf("web-%d", rng.IntN(5)), ready(rng.IntN(2) == 0))
	}
	c.eventually("after many changes", same)
	watch.Stop()
	if n := <-writes; n == 0 || n > 2*changes {
		c.Errorf("%d changes made %d writes of two slices", changes, n)
	} else {
		c.Logf("%d changes of readiness, %d writes of two slices", changes, n)
	}

	if err := c.Kube.CoreV1().Services(ns).Delete(c.Context(), "web", metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
	c.eventually("everything of the Service goes", func() string {
		_, err := c.Kube.CoreV1().Endpoints(ns).Get(c.Context(), "web", metav1.GetOptions{})
		if n := len(c.slices(ns)); n > 0 || !apierrors.IsNotFound(err) {
			return fmt.Sprintf("%d slices, Endpoints: %v", n, err)
		}
		return ""
	})
}

func (c *cluster) version(namespace string) string {
	list, err := c.Kube.DiscoveryV1().EndpointSlices(namespace).List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return list.ResourceVersion
}

// loss measures how long after a pod's loss of readiness a watcher of the slices
// knows. It may not take what a batching delay would.
func (c *cluster) loss(namespace string) {
	var took []time.Duration
	for i := range 20 {
		watch, err := c.Kube.DiscoveryV1().EndpointSlices(namespace).Watch(c.Context(), metav1.ListOptions{ResourceVersion: c.version(namespace)})
		if err != nil {
			c.Fatal(err)
		}
		pod, err := c.Kube.CoreV1().Pods(namespace).Get(c.Context(), "web-0", metav1.GetOptions{})
		if err != nil {
			c.Fatal(err)
		}
		ready(i%2 == 1)(&pod.Status)
		if _, err := c.Kube.CoreV1().Pods(namespace).UpdateStatus(c.Context(), pod, metav1.UpdateOptions{}); err != nil {
			c.Fatal(err)
		}
		since := time.Now()
		for range 2 { // both families
			select {
			case <-watch.ResultChan():
			case <-time.After(30 * time.Second):
				c.Fatal("the slice isn't written")
			}
		}
		took = append(took, time.Since(since))
		watch.Stop()
	}
	slices.Sort(took)
	c.Logf("from the pod's status to both slices: median %v, worst %v", took[10], took[19])
	if took[10] > 5*time.Second { // far above what is logged: tests share their machine
		c.Error("that is no longer at once")
	}
}

func (c *cluster) configMap(name string, owners ...*metav1.OwnerReference) *metav1.OwnerReference {
	c.Helper()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	for _, o := range owners {
		cm.OwnerReferences = append(cm.OwnerReferences, *o)
	}
	made, err := c.Kube.CoreV1().ConfigMaps("default").Create(c.Context(), cm, metav1.CreateOptions{})
	if err != nil {
		c.Fatal(err)
	}
	block := true
	return &metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: name, UID: made.UID, BlockOwnerDeletion: &block}
}

func (c *cluster) left(prefix string) string {
	list, err := c.Kube.CoreV1().ConfigMaps("default").List(c.Context(), metav1.ListOptions{})
	if err != nil {
		c.Fatal(err)
	}
	var out []string
	for _, cm := range list.Items {
		if strings.HasPrefix(cm.Name, prefix) {
			text := cm.Name
			for _, o := range cm.OwnerReferences {
				text += "<" + o.Name
			}
			out = append(out, text)
		}
	}
	return strings.Join(out, " ")
}

func (c *cluster) owners() {
	c.namespace("default")
	for _, d := range []struct {
		policy metav1.DeletionPropagation
		left   string
	}{
		{metav1.DeletePropagationBackground, "b-other b-shared<b-other"},
		{metav1.DeletePropagationForeground, "f-other f-shared<f-other"},
		{metav1.DeletePropagationOrphan, "o-child o-grandchild<o-child o-other o-shared<o-other"},
	} {
		p := strings.ToLower(string(d.policy[:1])) + "-"
		root, other := c.configMap(p+"root"), c.configMap(p+"other")
		child := c.configMap(p+"child", root)
		c.configMap(p+"grandchild", child)
		c.configMap(p+"shared", root, other)
		if err := c.Kube.CoreV1().ConfigMaps("default").Delete(c.Context(), p+"root", metav1.DeleteOptions{PropagationPolicy: &d.policy}); err != nil {
			c.Fatal(err)
		}
		c.eventually(string(d.policy), func() string {
			if got := c.left(p); got != d.left {
				return "left " + got
			}
			return ""
		})
	}
	// One whose owner never was, and one whose owner's kind nobody knows.
	gone := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "never", UID: "11111111-1111-1111-1111-111111111111"}
	unknown := metav1.OwnerReference{APIVersion: "nobody.example.org/v1", Kind: "Knows", Name: "it", UID: "22222222-2222-2222-2222-222222222222"}
	c.configMap("x-unknown", &unknown)
	c.configMap("x-gone", &gone)
	c.eventually("an owner that never was", func() string {
		if got := c.left("x-"); got != "x-unknown<it" {
			return "left " + got
		}
		return ""
	})
}

const widgets = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
 "metadata": {"name": "widgets.example.org"},
 "spec": {"group": "example.org", "scope": "Namespaced", "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
  "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}}`

// customOwners: a kind that comes while the controller runs.
func (c *cluster) customOwners() {
	// Judged before its owner's kind is known, and then as soon as that can be told.
	c.configMap("w0-child", &metav1.OwnerReference{APIVersion: "example.org/v1", Kind: "Widget", Name: "never", UID: "44444444-4444-4444-4444-444444444444"})
	crd := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(widgets), &crd.Object); err != nil {
		c.Fatal(err)
	}
	definitions := c.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := definitions.Create(c.Context(), crd, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
	client := c.dynamic.Resource(schema.GroupVersionResource{Group: "example.org", Version: "v1", Resource: "widgets"}).Namespace("default")
	var uid types.UID
	c.eventually("the kind is served", func() string {
		made, err := client.Create(c.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "example.org/v1", "kind": "Widget", "metadata": map[string]any{"name": "w1"},
		}}, metav1.CreateOptions{})
		if err != nil {
			return err.Error()
		}
		uid = made.GetUID()
		return ""
	})
	c.configMap("w1-child", &metav1.OwnerReference{APIVersion: "example.org/v1", Kind: "Widget", Name: "w1", UID: uid})
	c.eventually("a child whose owner never was", func() string { return c.left("w0-") })
	c.configMap("w1-later", &metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "never", UID: "33333333-3333-3333-3333-333333333333"})
	c.eventually("only what came later and has no owner goes", func() string {
		if got := c.left("w1-"); got != "w1-child<w1" {
			return "left " + got
		}
		return ""
	})
	if err := client.Delete(c.Context(), "w1", metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
	c.eventually("the custom object's child goes", func() string { return c.left("w1-") })
}

func (c *cluster) namespaces() {
	const ns = "doomed"
	c.namespace(ns)
	c.service(ns, "web")
	for n := range 3 {
		c.pod(ns, "web", n)
	}
	for n := range 10 {
		_, err := c.Kube.CoreV1().ConfigMaps(ns).Create(c.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", n)}}, metav1.CreateOptions{})
		if err != nil {
			c.Fatal(err)
		}
	}
	held, err := c.Kube.CoreV1().Secrets(ns).Create(c.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.org/hold"}}}, metav1.CreateOptions{})
	if err != nil {
		c.Fatal(err)
	}
	since := time.Now()
	if err := c.Kube.CoreV1().Namespaces().Delete(c.Context(), ns, metav1.DeleteOptions{}); err != nil {
		c.Fatal(err)
	}
	c.eventually("the condition names what is waited for", func() string {
		n, err := c.Kube.CoreV1().Namespaces().Get(c.Context(), ns, metav1.GetOptions{})
		if err != nil {
			return err.Error()
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NamespaceFinalizersRemaining && strings.Contains(cond.Message, "example.org/hold in 1 resource instances") {
				return ""
			}
		}
		return fmt.Sprintf("%+v", n.Status)
	})
	c.Logf("all but the held one was gone after %v", time.Since(since))
	patch := []byte(`{"metadata":{"finalizers":null}}`)
	if _, err := c.Kube.CoreV1().Secrets(ns).Patch(c.Context(), held.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		c.Fatal(err)
	}
	c.eventually("the namespace goes", func() string {
		_, err := c.Kube.CoreV1().Namespaces().Get(c.Context(), ns, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprint(err)
	})
}
