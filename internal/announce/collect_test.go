package announce

import (
	"log/slog"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/metallb"
)

func pool(name, addresses string) *metallb.IPAddressPool {
	return &metallb.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: metallb.IPAddressPoolSpec{Addresses: []string{addresses}}}
}

func view(name string, kind corev1.ServiceType, ips ...string) catalog.View {
	s := &catalog.Service{Name: types.NamespacedName{Namespace: "default", Name: name}, Type: kind, Labels: map[string]string{"app": name}}
	for _, ip := range ips {
		s.Ingress = append(s.Ingress, catalog.Ingress{IP: netip.MustParseAddr(ip)})
	}
	return catalog.View{Name: s.Name, Service: s}
}

// LB-02: parts get Services with addresses of pools, all nodes and what people wrote, once
// all of it is known, and each change.
func TestCollector(t *testing.T) {
	c := NewCollector(Config{Self: "a", Log: slog.New(slog.DiscardHandler)})
	nodes := nodeStore{c}
	excluded := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "b", Labels: map[string]string{corev1.LabelNodeExcludeBalancers: ""}},
		Spec:       corev1.NodeSpec{Unschedulable: true},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "b"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.2"}}},
	}
	plain := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	c.Replace(nil, []catalog.View{
		view("web", corev1.ServiceTypeLoadBalancer, "192.0.2.201", "203.0.113.1"), view("inner", corev1.ServiceTypeClusterIP),
		view("else", corev1.ServiceTypeLoadBalancer, "203.0.113.2"),
	})
	if err := nodes.Replace([]any{excluded, plain}, ""); err != nil {
		t.Fatal(err)
	}
	if _, ok := c.input(); ok {
		t.Error("handed over before the configuration was known")
	}
	c.setConfig(&metallb.Config{Pools: []*metallb.IPAddressPool{pool("lan", "192.0.2.200/29")}})
	in, ok := c.input()
	if !ok || len(in.Services) != 1 || len(in.Services[0].Addresses) != 1 || in.Services[0].Addresses[0].Pool.Name != "lan" || in.Services[0].Labels["app"] != "web" {
		t.Errorf("Services %+v", in.Services)
	}
	if len(in.Nodes) != 2 || in.Nodes[0].Name != "a" || !in.Nodes[1].Excluded || !in.Nodes[1].Draining || len(in.Nodes[1].Addresses) != 1 {
		t.Errorf("Nodes %+v", in.Nodes)
	}
	for len(c.wake) > 0 {
		<-c.wake
	}
	if err := nodes.Update(plain.DeepCopy()); err != nil {
		t.Fatal(err)
	}
	c.Update([]catalog.View{view("inner", corev1.ServiceTypeClusterIP)})
	if len(c.wake) > 0 {
		t.Error("a heartbeat, or a Service without such an address, is news")
	}
	c.Update([]catalog.View{view("api", corev1.ServiceTypeLoadBalancer, "192.0.2.202"), {Name: types.NamespacedName{Namespace: "default", Name: "web"}}})
	if len(c.wake) == 0 {
		t.Error("a new Service is no news")
	}
	c.setConfig(&metallb.Config{Pools: []*metallb.IPAddressPool{pool("lan", "192.0.2.200/29"), pool("more", "203.0.113.0/24")}})
	if err := nodes.Delete(excluded); err != nil {
		t.Fatal(err)
	}
	if in, _ := c.input(); len(in.Nodes) != 1 || len(in.Services) != 2 || in.Services[0].Name.Name != "api" || in.Services[1].Name.Name != "else" {
		t.Errorf("after changes: %+v", in)
	}
}
