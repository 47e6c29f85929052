package loadbalancers

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"

	"portico.dev/portico/internal/announce/statuses"
	"portico.dev/portico/internal/apiserver/apitest"
	core "portico.dev/portico/internal/core/metallb"
	"portico.dev/portico/internal/metallb"
)

// LB-07: what a new node says stays, though the watch hasn't told of its Node yet.
func TestLeftoversBeforeTheWatch(t *testing.T) {
	t.Parallel()
	s := apitest.Start(t)
	client, err := dynamic.NewForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := metallb.Install(t.Context(), client, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	for _, node := range []string{"new", "gone"} {
		apitest.Eventually(t, "write of "+node, func() error {
			return metallb.Apply(t.Context(), client, statuses.Layer2(node, web, []string{"eth0"}))
		})
	}
	c := &controller{Deps: Deps{Client: s.Kube, Dynamic: client}, nodes: cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)}
	if err := c.removeLeftovers(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := client.Resource(metallb.ServiceL2Statuses).Namespace(core.Namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	label := core.NodeLabel(metallb.ServiceL2Statuses.Resource)
	if len(list.Items) != 1 || list.Items[0].GetLabels()[label] != "new" {
		t.Errorf("left: %v", list.Items)
	}
}
