package records

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/endpoints"
	"portico.dev/portico/internal/core/machine"
)

func pod(namespace, name, of string, addrs ...string) *Pod {
	p := &Pod{Name: types.NamespacedName{Namespace: namespace, Name: name}, Machine: of}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.MustParseAddr(a))
	}
	return p
}

// TestFromPod: which pods count, and what of them.
func TestFromPod(t *testing.T) {
	running := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: "p", Labels: map[string]string{MachineLabel: "front"}, Annotations: map[string]string{machineAnnotation: "web"},
			},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.245.0.9"}, {IP: "fd00::9"}, {IP: "nonsense"}}},
		}
		change(p)
		return p
	}
	for _, tt := range []struct {
		what   string
		change func(*corev1.Pod)
		want   *Pod
	}{
		{"a machine's", func(*corev1.Pod) {}, pod("shop", "p", "web", "10.245.0.9", "fd00::9")},
		{"a machine that ends", func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, pod("shop", "p", "web", "10.245.0.9", "fd00::9")},
		{"without KubeVirt's annotation", func(p *corev1.Pod) { p.Annotations = nil }, pod("shop", "p", "front", "10.245.0.9", "fd00::9")},
		{"no machine's", func(p *corev1.Pod) { p.Labels = nil }, pod("shop", "p", "", "10.245.0.9", "fd00::9")},
		{"not started", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, pod("shop", "p", "", "10.245.0.9", "fd00::9")},
		{"without an address", func(p *corev1.Pod) { p.Status.PodIPs = nil }, nil},
		{"failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, nil},
		{"succeeded", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, nil},
	} {
		if got := FromPod(running(tt.change)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, want %+v", tt.what, got, tt.want)
		}
	}
}

// TestMachineNames: a running machine has its name and its address leads back; one that
// doesn't run has none.
func TestMachineNames(t *testing.T) {
	z := newZone(t)
	const v4 = "9.0.97.10.in-addr.arpa"
	v6 := ReverseName(netip.MustParseAddr("fd00:10:96::a")).String()
	expect(t, z.Table(1), map[string]string{"web.shop.vm.cluster.local": "unknown", "vm.cluster.local": "exists", "web.shop.svc.cluster.local": "missing"})
	z.ReplacePods([]*Pod{pod("shop", "a", "web", "10.97.0.9", "fd00:10:96::a"), pod("shop", "b", "", "10.97.0.10"), pod("shop", "c", "with.dot", "10.97.0.11")})
	both := map[string]string{
		"web.shop.vm.cluster.local": "[1 x1 28 x1]", "shop.vm.cluster.local": "exists", "shop.svc.cluster.local": "exists", v4: "[12 x1]", v6: "[12 x1]",
		"b.shop.vm.cluster.local": "missing", "with.dot.shop.vm.cluster.local": "missing", "web.other.vm.cluster.local": "missing", "other.vm.cluster.local": "missing",
	}
	expect(t, z.Table(2), both)

	// While a machine moves it has two pods with the same addresses.
	z.UpdatePod(types.NamespacedName{Namespace: "shop", Name: "a2"}, pod("shop", "a2", "web", "10.97.0.9", "fd00:10:96::a"))
	expect(t, z.Table(3), both)
	if z.UpdatePod(types.NamespacedName{Namespace: "shop", Name: "a2"}, pod("shop", "a2", "web", "10.97.0.9", "fd00:10:96::a")) {
		t.Error("the same pod again is news")
	}
	z.UpdatePod(types.NamespacedName{Namespace: "shop", Name: "a"}, nil)
	expect(t, z.Table(4), both)

	// The names of Services and endpoints come before a machine's own.
	z.Replace([]Change{change("db", "store", true, "10.97.0.9")})
	table := z.Table(5)
	expect(t, table, map[string]string{v4: "[12 x1 65280 x1]", v6: "[12 x1]", "web.shop.vm.cluster.local": "[1 x1 28 x1]"})
	name, err := ParseName(v4)
	if err != nil {
		t.Fatal(err)
	}
	if set, _ := table.Find([]byte(name)).Node.Set(TypePTR); set.Target().String() != "store-0.store.db.svc.cluster.local." {
		t.Errorf("%s leads to %s", v4, set.Target())
	}
	if _, ok := table.Find([]byte(name)).Node.Set(typeOutranked); ok {
		t.Error("what is outranked can be asked for")
	}
	z.Replace(nil)
	expect(t, z.Table(6), both)

	z.ReplacePods(nil)
	expect(t, z.Table(7), map[string]string{"web.shop.vm.cluster.local": "missing", "shop.vm.cluster.local": "missing", v4: "missing", v6: "missing"})
	if len(z.pods)+len(z.named)+len(z.used) > 0 || z.table.names.size != newZone(t).table.names.size {
		t.Errorf("%d pods, %d names, %d namespaces stay", len(z.pods), len(z.named), len(z.used))
	}
}

// TestExistingPods: names that spell the address of a pod of that namespace. DNS-04
func TestExistingPods(t *testing.T) {
	z, err := NewZone(Config{Domain: "cluster.local", Pods: PodsExisting})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, z.Table(1), map[string]string{"10-97-0-9.shop.pod.cluster.local": "unknown"})
	z.ReplacePods([]*Pod{pod("shop", "a", "", "10.97.0.9", "fd00::9"), pod("shop", "same", "", "10.97.0.9")})
	z.UpdatePod(types.NamespacedName{Namespace: "shop", Name: "same"}, nil)
	expect(t, z.Table(2), map[string]string{
		"10-97-0-9.shop.pod.cluster.local": "[1 x1]", "fd00--9.shop.pod.cluster.local": "[28 x1]", "shop.pod.cluster.local": "exists",
		"10-97-0-9.other.pod.cluster.local": "missing", "10-97-0-8.shop.pod.cluster.local": "missing", "other.pod.cluster.local": "missing",
	})
	z.UpdatePod(types.NamespacedName{Namespace: "shop", Name: "a"}, nil)
	expect(t, z.Table(3), map[string]string{"10-97-0-9.shop.pod.cluster.local": "missing", "shop.pod.cluster.local": "missing"})
}

// TestSearch: short names are looked for in the namespace of a client that is known.
// DNS-06
func TestSearch(t *testing.T) {
	z, err := NewZone(Config{Domain: "cluster.local", Search: true})
	if err != nil {
		t.Fatal(err)
	}
	z.Replace([]Change{change("shop", "web", false, "10.96.0.1"), change("bar", "web", false, "10.96.0.2"), change("bar", "com", false, "10.96.0.3")})
	onNode := pod("shop", "host", "", "192.0.2.1")
	onNode.HostNetwork = true
	z.ReplacePods([]*Pod{
		pod("shop", "a", "", "10.97.0.9", "fd00::9"), pod("bar", "b", "", "10.97.0.10"), onNode,
		pod("shop", "twice", "", "10.97.0.11"), pod("bar", "twice", "", "10.97.0.11"),
	})
	table := z.Table(1)
	if got, want := table.Size(), newSizeOf(t, z); got != want {
		t.Errorf("%d names, want %d", got, want)
	}
	for _, tt := range []struct{ client, name, want string }{
		{"10.97.0.9", "web", "web.shop.svc.cluster.local."},
		{"fd00::9", "web", "web.shop.svc.cluster.local."},
		{"10.97.0.10", "web", "web.bar.svc.cluster.local."},
		{"10.97.0.9", "web.bar", "web.bar.svc.cluster.local."},
		{"10.97.0.9", "web.bar.svc", "web.bar.svc.cluster.local."},
		{"10.97.0.9", "bar.svc", ""}, // a name without data isn't what is looked for
		{"10.97.0.9", "svc", ""},
		{"10.97.0.9", "com", ""},
		{"10.97.0.9", ".", ""},
		{"10.97.0.9", "a.b.c.d.web.bar", ""},
		{"192.0.2.1", "web", ""},
		{"10.97.0.11", "web", ""},
		{"192.0.2.66", "web", ""},
		{"10.97.0.9", strings.Repeat("a123456789.", 4) + strings.Repeat("b", 60), ""},
	} {
		name, err := ParseName(tt.name)
		if err != nil {
			t.Fatal(err)
		}
		whole, _, found := table.Search(nil, []byte(name), netip.MustParseAddr(tt.client))
		if found != (tt.want != "") || found && Name(whole).String() != tt.want {
			t.Errorf("%s asks for %s: %q, want %q", tt.client, tt.name, whole, tt.want)
		}
	}
	z.UpdatePod(types.NamespacedName{Namespace: "bar", Name: "twice"}, nil)
	z.UpdatePod(types.NamespacedName{Namespace: "shop", Name: "a"}, nil)
	z.Replace([]Change{change("shop", "web", false, "10.96.0.1")})
	for client, want := range map[string]bool{"10.97.0.9": false, "10.97.0.11": true} {
		if _, _, found := z.Table(2).Search(nil, []byte("\x03web\x00"), netip.MustParseAddr(client)); found != want {
			t.Errorf("after changes, from %s: %v, want %v", client, found, want)
		}
	}
}

// newSizeOf counts the names of a zone that has the same, and looks for nobody.
func newSizeOf(t *testing.T, z *Zone) int {
	t.Helper()
	other, err := NewZone(Config{Domain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	for name, h := range z.held {
		other.Update([]Change{{Name: name, Service: h.service, Slices: h.slices}})
	}
	return other.Table(1).Size()
}

// TestMachineAsEndpoint: a machine with hostname and subdomain has the records that a pod
// with them has, from its template to its name. DNS-02, DNS-03, VM-05
func TestMachineAsEndpoint(t *testing.T) {
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{Namespace: "db", Name: "vm1", Labels: map[string]string{"app": "db"}}}
	vmi.Spec.Hostname, vmi.Spec.Subdomain = "node-0", "store"
	virtual := machine.PodFor(vmi)
	virtual.Spec.NodeName = "n"
	virtual.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "10.245.0.9", PodIPs: []corev1.PodIP{{IP: "10.245.0.9"}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "db", Name: "store"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: corev1.ClusterIPNone, ClusterIPs: []string{corev1.ClusterIPNone},
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "db"},
			Ports: []corev1.ServicePort{{Name: "sql", Protocol: corev1.ProtocolTCP, Port: 5432}},
		},
	}
	if !endpoints.Selects(service, virtual) {
		t.Fatalf("the Service doesn't select %v", virtual.Labels)
	}
	var from []*catalog.Slice
	for _, es := range endpoints.Slices(endpoints.Input{Service: service, Pods: []*corev1.Pod{virtual}}).Create {
		from = append(from, catalog.FromSlice(es))
	}
	got := lines(OfService(zoneName(t), catalog.FromService(service), from))
	const want = `store.db.svc.cluster.local. A 10.245.0.9
node-0.store.db.svc.cluster.local. A 10.245.0.9
9.0.245.10.in-addr.arpa. PTR node-0.store.db.svc.cluster.local.
_tcp.store.db.svc.cluster.local. exists
_sql._tcp.store.db.svc.cluster.local. SRV 0 100 5432 node-0.store.db.svc.cluster.local. [10.245.0.9]
`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
