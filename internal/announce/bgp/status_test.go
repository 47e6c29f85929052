package bgp

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver/apitest"
	core "portico.dev/portico/internal/core/bgp"
	kinds "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// LB-07: ServiceBGPStatus objects say to whom the node announces each Service, follow the
// plan, and those of an earlier run go. Passwords are read as MetalLB does.
func TestStatusAndPasswords(t *testing.T) {
	t.Parallel()
	server := apitest.Start(t)
	client, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := metallb.Install(t.Context(), client, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	statuses := client.Resource(metallb.ServiceBGPStatuses).Namespace(kinds.Namespace)
	apitest.Eventually(t, "statuses are served", func() error {
		_, err := statuses.List(t.Context(), metav1.ListOptions{})
		return err
	})
	w := base(kinds.BGPPeerSpec{MyASN: 64512, ASN: 64513, Address: "192.0.2.254"}, at("web", "198.51.100.1"), at("api", "198.51.100.2"))
	plan := core.Decide(w.input("node-a"))
	status := NewStatus("node-a", client, slog.New(slog.DiscardHandler))
	has := func(want string) {
		t.Helper()
		list, err := statuses.List(t.Context(), metav1.ListOptions{LabelSelector: "metallb.io/node=node-a"})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, item := range list.Items {
			o := &kinds.ServiceBGPStatus{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, o); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(o.Status.Node, " ", o.Status.ServiceNamespace, "/", o.Status.ServiceName, " ", o.Status.Peers))
		}
		slices.Sort(got)
		if strings.Join(got, "\n") != want {
			t.Errorf("the statuses are\n%s\nnot\n%s", strings.Join(got, "\n"), want)
		}
	}
	if err := status.sync(t.Context(), plan.Peers()); err != nil {
		t.Fatal(err)
	}
	has("node-a default/api [router]\nnode-a default/web [router]")
	w.Services = w.Services[:1]
	plan = core.Decide(w.input("node-a"))
	again := NewStatus("node-a", client, slog.New(slog.DiscardHandler)) // a restart
	if err := again.sync(t.Context(), plan.Peers()); err != nil {
		t.Fatal(err)
	}
	has("node-a default/web [router]")

	kube, err := kubernetes.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*corev1.Secret{
		{ObjectMeta: metav1.ObjectMeta{Name: "good"}, Type: corev1.SecretTypeBasicAuth, StringData: map[string]string{"username": "", "password": "p"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "opaque"}, StringData: map[string]string{"password": "p"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "empty"}, Type: corev1.SecretTypeBasicAuth, StringData: map[string]string{"username": "u"}},
	} {
		if _, err := kube.CoreV1().Secrets(kinds.Namespace).Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"good": "p <nil>", "opaque": " its type is Opaque; make it kubernetes.io/basic-auth", "empty": " it has no password", "none": ` secrets "none" not found`} {
		password, err := Passwords(kube)(t.Context(), kinds.SecretReference{Namespace: kinds.Namespace, Name: name})
		if got := fmt.Sprint(password, " ", err); got != want {
			t.Errorf("Secret %s gave %q, not %q", name, got, want)
		}
	}
}
