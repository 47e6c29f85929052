package noderestriction_test

import (
	"fmt"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/machine"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/kubevirt"
	"portico.dev/portico/internal/metallb"
)

// asNode leads to the server with a node's certificate.
func asNode(t *testing.T, server *apitest.Server, name string) *rest.Config {
	t.Helper()
	cert, key, err := server.Authority.Client("system:node:"+name, "system:nodes")
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Config{Host: server.Config.Host, TLSClientConfig: rest.TLSClientConfig{
		CAData: server.Authority.PEM(), CertData: cert, KeyData: key, ServerName: server.Config.ServerName,
	}}
}

// A node reads the instances that run on it, in which cloud-init's data is, and no others.
func TestNodesReadTheirInstances(t *testing.T) {
	t.Parallel()
	server := apitest.Start(t)
	admin, err := kubevirt.NewForConfig(server.Config, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	instances := admin.VirtualMachineInstances("default")
	for name, node := range map[string]string{"own": "a", "other": "b", "waits": ""} {
		memory := resource.MustParse("64Mi")
		boot := &kubevirtv1.KernelBoot{Container: &kubevirtv1.KernelBootContainer{Image: "portico.local/guest:latest", KernelPath: "/boot/vmlinuz"}}
		vmi, err := instances.Create(t.Context(), &kubevirtv1.VirtualMachineInstance{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
			Spec: kubevirtv1.VirtualMachineInstanceSpec{Domain: kubevirtv1.DomainSpec{
				Memory: &kubevirtv1.Memory{Guest: &memory}, Firmware: &kubevirtv1.Firmware{KernelBoot: boot},
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		isController := true
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: machine.PodName(vmi), Annotations: vmi.Annotations, OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "kubevirt.io/v1", Kind: "VirtualMachineInstance", Name: name, UID: vmi.UID, Controller: &isController},
			}},
			Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "compute", Image: "none"}}},
		}
		if _, err := server.Kube.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	client, err := kubevirt.NewForConfig(asNode(t, server, "a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	own := client.VirtualMachineInstances("default")
	if vmi, err := own.Get(t.Context(), "own", metav1.GetOptions{}); err != nil || vmi.Labels["app"] != "own" { // before its status names the node
		t.Errorf("its own: %v, %v", vmi, err)
	}
	for _, name := range []string{"other", "waits"} {
		if _, err := own.Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := own.Get(t.Context(), "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what isn't there: %v", err)
	}
	for _, selector := range []string{"", "status.nodeName=b", "status.nodeName!=a", "metadata.name=other", "metadata.name=own", "metadata.name=none"} {
		if _, err := own.List(t.Context(), metav1.ListOptions{FieldSelector: selector}); !apierrors.IsForbidden(err) {
			t.Errorf("a list by %q: %v", selector, err)
		}
		if w, err := own.Watch(t.Context(), metav1.ListOptions{FieldSelector: selector}); !apierrors.IsForbidden(err) {
			t.Errorf("a watch by %q: %v", selector, err)
			if err == nil {
				w.Stop()
			}
		}
	}
	if _, err := instances.Patch(t.Context(), "own", types.MergePatchType, []byte(`{"status":{"nodeName":"a"}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "a list of its own", func() error {
		list, err := own.List(t.Context(), metav1.ListOptions{FieldSelector: "status.nodeName=a"})
		if err == nil && (len(list.Items) != 1 || list.Items[0].Name != "own") {
			err = fmt.Errorf("it has %d", len(list.Items))
		}
		return err
	})
}

// LB-07: a node says what it announces, and nothing in another's name.
func TestNodesWriteTheirStatuses(t *testing.T) {
	t.Parallel()
	server := apitest.Start(t)
	admin, err := dynamic.NewForConfig(server.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := metallb.Install(t.Context(), admin, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(asNode(t, server, "a"))
	if err != nil {
		t.Fatal(err)
	}
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	state := func(node string) metav1.Object { return statuses.State(node, nil, metav1.Now()) }
	controllers := &core.ConfigurationState{ObjectMeta: metav1.ObjectMeta{Name: "controller", Labels: map[string]string{"metallb.io/component-type": "controller"}}}
	disguised := statuses.Layer2("b", web, []string{"eth0"})
	disguised.Name, disguised.Labels = "mine", map[string]string{"metallb.io/node": "a"}
	apitest.Eventually(t, "the kinds are served", func() error { return metallb.Apply(t.Context(), admin, state("served")) })
	for what, c := range map[string]struct {
		object metav1.Object
		may    bool
	}{
		"its L2 status":           {statuses.Layer2("a", web, []string{"eth0"}), true},
		"another's":               {statuses.Layer2("b", web, []string{"eth0"}), false},
		"another's in disguise":   {disguised, false},
		"its BGP status":          {statuses.BGP("a", web, []string{"router"}), true},
		"another's BGP status":    {statuses.BGP("b", web, []string{"router"}), false},
		"its configuration state": {state("a"), true},
		"another's state":         {state("b"), false},
		"the controller's":        {controllers, false},
	} {
		err := fmt.Errorf("not tried")
		apitest.Eventually(t, what, func() error {
			if err = metallb.Apply(t.Context(), client, c.object); apierrors.IsNotFound(err) {
				return err // a kind that isn't served yet
			}
			return nil
		})
		if c.may != (err == nil) || !c.may && !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	other := statuses.Layer2("b", web, []string{"eth0"})
	if err := metallb.Apply(t.Context(), admin, other); err != nil {
		t.Fatal(err)
	}
	other.Status.Interfaces[0].Name = "eth1"
	if err := metallb.Apply(t.Context(), client, other); !apierrors.IsForbidden(err) {
		t.Errorf("a change of another's: %v", err)
	}
	if err := metallb.Delete(t.Context(), client, metallb.ServiceL2Statuses, other.Name); !apierrors.IsForbidden(err) {
		t.Errorf("the deletion of another's: %v", err)
	}
	if err := metallb.Delete(t.Context(), client, metallb.ServiceL2Statuses, statuses.Layer2("a", web, nil).Name); err != nil {
		t.Errorf("the deletion of its own: %v", err)
	}
}
