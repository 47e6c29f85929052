package loadbalancers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/apiserver/apitest"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// asNode is a client with a node's certificate.
func (w *world) asNode(name string) kubernetes.Interface {
	w.Helper()
	cert, key, err := w.Authority.Client("system:node:"+name, "system:nodes")
	if err != nil {
		w.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: w.Config.Host, TLSClientConfig: rest.TLSClientConfig{
		CAData: w.Authority.PEM(), CertData: cert, KeyData: key, ServerName: w.Config.ServerName,
	}})
	if err != nil {
		w.Fatal(err)
	}
	return client
}

// LB-04: nodes read exactly the Secrets that BGPPeers name, and none once none does.
func TestNodesReadPasswords(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.run()
	peers := w.dynamic.Resource(metallb.BGPPeers).Namespace(core.Namespace)
	peer := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "metallb.io/v1beta2", "kind": "BGPPeer", "metadata": map[string]any{"name": "router"},
		"spec": map[string]any{"myASN": int64(64512), "peerASN": int64(64513), "peerAddress": "192.0.2.1", "passwordSecret": map[string]any{"name": "key"}},
	}}
	apitest.Eventually(t, "make a peer", func() error {
		_, err := peers.Create(t.Context(), peer, metav1.CreateOptions{})
		return err
	})
	for _, name := range []string{"key", "other"} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeBasicAuth, StringData: map[string]string{"password": "p"}}
		if _, err := w.Kube.CoreV1().Secrets(core.Namespace).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	secrets := w.asNode("a").CoreV1().Secrets(core.Namespace)
	get := func(name string) error {
		_, err := secrets.Get(t.Context(), name, metav1.GetOptions{})
		return err
	}
	apitest.Eventually(t, "the password is read", func() error { return get("key") })
	if err := get("other"); !apierrors.IsForbidden(err) {
		t.Errorf("another Secret: %v", err)
	}
	if _, err := secrets.List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("all Secrets: %v", err)
	}
	if err := peers.Delete(t.Context(), "router", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the password is nobody's business", func() error {
		if err := get("key"); !apierrors.IsForbidden(err) {
			return fmt.Errorf("a node gets %v", err)
		}
		return nil
	})
	if err := get("other"); !apierrors.IsForbidden(err) {
		t.Errorf("another Secret: %v", err)
	}
}

// node makes a Node, whose Ready condition has a status.
func (w *world) node(name string, ready corev1.ConditionStatus) {
	w.Helper()
	n, err := w.Kube.CoreV1().Nodes().Get(w.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		n, err = w.Kube.CoreV1().Nodes().Create(w.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	}
	if err != nil {
		w.Fatal(err)
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	if _, err := w.Kube.CoreV1().Nodes().UpdateStatus(w.Context(), n, metav1.UpdateOptions{}); err != nil {
		w.Fatal(err)
	}
}

// LB-07: what a node said of its announcements goes with its Node; of a dead node that goes
// which another one says.
func TestLeftoversOfNodes(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.run()
	web, api := types.NamespacedName{Namespace: "default", Name: "web"}, types.NamespacedName{Namespace: "default", Name: "api"}
	for _, name := range []string{"a", "b", "c"} {
		w.node(name, corev1.ConditionTrue)
		for _, o := range []metav1.Object{
			statuses.Layer2(name, web, []string{"eth0"}), statuses.BGP(name, web, []string{"router"}), statuses.State(name, nil, metav1.Now()),
		} {
			apitest.Eventually(t, "write "+o.GetName(), func() error { return metallb.Apply(t.Context(), w.dynamic, o) })
		}
	}
	if err := metallb.Apply(t.Context(), w.dynamic, statuses.Layer2("b", api, []string{"eth0"})); err != nil {
		t.Fatal(err)
	}
	has := func(when, want string) {
		t.Helper()
		apitest.Eventually(t, when, func() error {
			var got []string
			for _, resource := range []schema.GroupVersionResource{metallb.ServiceL2Statuses, metallb.ServiceBGPStatuses, metallb.ConfigurationStates} {
				label := core.NodeLabel(resource.Resource)
				list, err := w.dynamic.Resource(resource).Namespace(core.Namespace).List(t.Context(), metav1.ListOptions{LabelSelector: label})
				if err != nil {
					return err
				}
				for i := range list.Items {
					l := list.Items[i].GetLabels()
					got = append(got, fmt.Sprint(l[label], l[statuses.LabelServiceName], strings.TrimPrefix(list.Items[i].GetKind(), "Service")))
				}
			}
			slices.Sort(got)
			if fmt.Sprint(got) != want {
				return fmt.Errorf("there are %v, not %s", got, want)
			}
			return nil
		})
	}
	has("all", "[aConfigurationState awebBGPStatus awebL2Status bConfigurationState bapiL2Status bwebBGPStatus bwebL2Status cConfigurationState cwebBGPStatus cwebL2Status]")
	if err := w.Kube.CoreV1().Nodes().Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.node("b", corev1.ConditionUnknown)
	has("what is left", "[bConfigurationState bapiL2Status cConfigurationState cwebBGPStatus cwebL2Status]")
}
