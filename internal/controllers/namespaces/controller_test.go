package namespaces

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	discoveryfake "k8s.io/client-go/discovery/fake"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"portico.dev/portico/internal/controllers/resources"
)

func resource(group, name string, verbs ...string) resources.Resource {
	return resources.Resource{GroupVersionResource: schema.GroupVersionResource{Group: group, Version: "v1", Resource: name}, Namespaced: true, Verbs: verbs}
}

// API-13: machines before pods, pods before what they use.
func TestStages(t *testing.T) {
	got := stages([]resources.Resource{
		resource("", "pods"), resource("", "services"), resource("kubevirt.io", "virtualmachineinstances"), resource("kubevirt.io", "virtualmachines"), resource("x", "pods"),
	})
	var text [][]string
	for _, s := range got {
		var names []string
		for _, r := range s {
			names = append(names, r.GroupResource().String())
		}
		text = append(text, names)
	}
	if !slices.Equal(text[0], []string{"virtualmachines.kubevirt.io", "virtualmachineinstances.kubevirt.io", "pods"}) ||
		!slices.Equal(text[1], []string{"services", "pods.x"}) {
		t.Errorf("stages %v", text)
	}
}

func TestConditions(t *testing.T) {
	r := report{
		discovery:  map[schema.GroupVersion]error{{Group: "b", Version: "v1"}: errors.New("down")},
		content:    []error{errors.New("list pods: no")},
		remaining:  map[schema.GroupResource]int{{Resource: "pods"}: 2, {Group: "kubevirt.io", Resource: "virtualmachines"}: 1},
		finalizers: map[string]int{"x/y": 3},
	}
	var status corev1.NamespaceStatus
	for _, c := range r.conditions() {
		setCondition(&status, c, metav1.NewTime(time.Unix(1, 0)))
	}
	want := []string{
		"NamespaceDeletionDiscoveryFailure=True Discovery failed for some groups, 1 failing: b/v1: down",
		"NamespaceDeletionGroupVersionParsingFailure=False All legacy kube types successfully parsed",
		"NamespaceDeletionContentFailure=True Failed to delete all resource types, 1 remaining: list pods: no",
		"NamespaceContentRemaining=True Some resources are remaining: pods. has 2 resource instances, virtualmachines.kubevirt.io has 1 resource instances",
		"NamespaceFinalizersRemaining=True Some content in the namespace has finalizers remaining: x/y in 3 resource instances",
	}
	for i, c := range status.Conditions {
		if got := string(c.Type) + "=" + string(c.Status) + " " + c.Message; got != want[i] {
			t.Errorf("got  %s\nwant %s", got, want[i])
		}
	}
	if r.clean() {
		t.Error("clean")
	}
	if (&report{}).clean() {
		t.Error("a report that didn't look at everything is clean")
	}
}

// API-13: the contents go stage by stage, then the finalizer.
func TestEmpties(t *testing.T) {
	scheme := fake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	thing := func(kind, name string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kind}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	}
	content := fake.NewSimpleMetadataClient(scheme, thing("Pod", "p"), thing("ConfigMap", "c"), thing("Secret", "s"))
	podGone := make(chan struct{})
	content.PrependReactor("delete-collection", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, nil // it ends in its own time
	})
	content.PrependReactor("delete-collection", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
		select {
		case <-podGone:
		default:
			t.Error("a ConfigMap is deleted while a pod is there")
		}
		return true, nil, content.Tracker().Delete(a.GetResource(), "ns", "c")
	})
	content.PrependReactor("list", "bindings", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewMethodNotSupported(schema.GroupResource{Resource: "bindings"}, "list")
	})
	all := metav1.Verbs{"list", "delete", "deletecollection"}
	served := &discoveryfake.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: all},
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: all},
		{Name: "secrets", Kind: "Secret", Namespaced: true, Verbs: metav1.Verbs{"list", "delete"}},
		{Name: "bindings", Kind: "Binding", Namespaced: true, Verbs: all},
		{Name: "nodes", Kind: "Node", Verbs: all},
	}}}}}
	client := kubefake.NewClientset(&corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "ns", DeletionTimestamp: &now, Finalizers: []string{"keep/for-the-fake"}},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes", "other"}},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- Run(ctx, Deps{Client: client, Metadata: content, Discovery: served, Log: slog.New(slog.DiscardHandler)})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	get := func() *corev1.Namespace {
		ns, err := client.CoreV1().Namespaces().Get(ctx, "ns", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return ns
	}
	wait := func(what string, cond func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %+v", what, get())
			}
		}
	}
	wait("remaining pod", func() bool {
		ns := get()
		return ns.Status.Phase == corev1.NamespaceTerminating && slices.ContainsFunc(ns.Status.Conditions, func(c corev1.NamespaceCondition) bool {
			return c.Type == corev1.NamespaceContentRemaining && c.Message == "Some resources are remaining: pods. has 1 resource instances"
		})
	})
	close(podGone)
	if err := content.Tracker().Delete(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "ns", "p"); err != nil {
		t.Fatal(err)
	}
	wait("finalizer", func() bool { return slices.Equal(get().Spec.Finalizers, []corev1.FinalizerName{"other"}) })
	for _, r := range []string{"configmaps", "secrets"} {
		list, err := content.Resource(schema.GroupVersionResource{Version: "v1", Resource: r}).Namespace("ns").List(ctx, metav1.ListOptions{})
		if err != nil || len(list.Items) != 0 {
			t.Errorf("%s: %v, %v", r, list, err)
		}
	}
}

// A new Namespace keeps what is in it, though its predecessor's end is still being worked on.
func TestNewNamespaceOfTheName(t *testing.T) {
	scheme := fake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	content := fake.NewSimpleMetadataClient(scheme, &metav1.PartialObjectMetadata{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"},
	})
	served := &discoveryfake.FakeDiscovery{Fake: &clienttesting.Fake{Resources: []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "secrets", Kind: "Secret", Namespaced: true, Verbs: metav1.Verbs{"list", "delete"}},
	}}}}}
	client := kubefake.NewClientset(&corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"kubernetes"}},
	})
	c := &controller{Deps: Deps{Client: client, Metadata: content, Discovery: served, Log: slog.New(slog.DiscardHandler)}}
	if err := c.sync(t.Context(), "ns"); err != nil {
		t.Error(err)
	}
	for _, action := range content.Actions() {
		t.Errorf("%s %s", action.GetVerb(), action.GetResource().Resource)
	}
}
