package agent

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

// recorder is a Consumer that counts.
type recorder struct {
	replaced, updated int
	node              *catalog.Node
	views             map[types.NamespacedName]View
	last              []View
}

func (r *recorder) Replace(node *catalog.Node, views []View) {
	r.replaced++
	r.node, r.views, r.last = node, map[types.NamespacedName]View{}, views
	for _, v := range views {
		r.views[v.Name] = v
	}
}

func (r *recorder) Update(views []View) {
	r.updated++
	r.last = views
	for _, v := range views {
		r.views[v.Name] = v
	}
}

func name(s string) types.NamespacedName {
	return types.NamespacedName{Namespace: "default", Name: s}
}

func svc(n string) *catalog.Service { return &catalog.Service{Name: name(n)} }

func slice(n, service, addr string) *catalog.Slice {
	return &catalog.Slice{Name: name(n), Service: name(service), Endpoints: []catalog.Endpoint{{Addr: netip.MustParseAddr(addr)}}}
}

// do runs one event as a store would.
func (s *state) do(f func()) {
	s.Lock()
	defer s.Unlock()
	f()
	s.wake()
}

func (s *state) hasNews() bool {
	select {
	case <-s.news:
		return true
	default:
		return false
	}
}

func TestNothingBeforeAllIsListed(t *testing.T) {
	s := newState("a")
	s.do(func() { s.putService(name("web"), svc("web")); s.listed[listedServices] = true })
	s.do(func() { s.listed[listedNode] = true; s.listed[listedCIDRs] = true })
	if s.hasNews() {
		t.Fatal("Services without their endpoints were handed over")
	}
	s.do(func() { s.putSlice(name("web-1"), slice("web-1", "web", "10.0.0.1")); s.listed[listedSlices] = true })
	if !s.hasNews() {
		t.Fatal("nothing was handed over")
	}
	r := &recorder{}
	s.handOver(Ranges{}, []Consumer{r})
	if r.replaced != 1 || r.node.Name != "a" || len(r.views[name("web")].Slices) != 1 {
		t.Errorf("got %+v", r)
	}
}

func synced(t *testing.T) (*state, *recorder) {
	t.Helper()
	s, r := newState("a"), &recorder{}
	s.do(func() { s.listed = [resources]bool{true, true, true, true} })
	s.hasNews()
	s.handOver(Ranges{}, []Consumer{r})
	return s, r
}

func TestCoalesces(t *testing.T) {
	s, r := synced(t)
	for i := range 100 {
		s.do(func() {
			v := svc("web")
			v.HealthCheckNodePort = uint16(i)
			s.putService(name("web"), v)
			s.putSlice(name("web-1"), slice("web-1", "web", netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}).String()))
		})
	}
	s.hasNews()
	s.handOver(Ranges{}, []Consumer{r})
	if r.updated != 1 || len(r.last) != 1 || r.last[0].Service.HealthCheckNodePort != 99 {
		t.Errorf("%d updates, the last %+v", r.updated, r.last)
	}
}

func TestNoNewsIsNotHandedOver(t *testing.T) {
	s, r := synced(t)
	first := slice("web-1", "web", "10.0.0.1")
	s.do(func() { s.putService(name("web"), svc("web")); s.putSlice(first.Name, first) })
	s.hasNews()
	s.handOver(Ranges{}, []Consumer{r})
	again := slice("web-1", "web", "10.0.0.1")
	again.Trigger = time.Unix(1, 0)
	s.do(func() {
		s.putService(name("web"), svc("web"))
		s.putSlice(again.Name, again)
		s.putNode(&catalog.Node{Name: "a"})
		s.putNode(nil)
	})
	if s.hasNews() {
		t.Error("equal values were news")
	}
}

func TestSliceMovesToAnotherService(t *testing.T) {
	s, r := synced(t)
	s.do(func() {
		s.putService(name("one"), svc("one"))
		s.putService(name("two"), svc("two"))
		s.putSlice(name("x"), slice("x", "one", "10.0.0.1"))
	})
	s.handOver(Ranges{}, []Consumer{r})
	s.do(func() { s.putSlice(name("x"), slice("x", "two", "10.0.0.1")) })
	s.handOver(Ranges{}, []Consumer{r})
	if len(r.views[name("one")].Slices) != 0 || len(r.views[name("two")].Slices) != 1 {
		t.Errorf("one has %v, two has %v", r.views[name("one")].Slices, r.views[name("two")].Slices)
	}
	s.do(func() { s.putSlice(name("x"), nil); s.putService(name("two"), nil) })
	s.handOver(Ranges{}, []Consumer{r})
	if v := r.views[name("two")]; v.Service != nil || len(v.Slices) != 0 {
		t.Errorf("two is %+v after its end", v)
	}
	if len(s.owner) != 0 || len(s.slices) != 0 {
		t.Error("the state keeps what is deleted")
	}
}

func TestNodeChangeReplaces(t *testing.T) {
	s, r := synced(t)
	s.do(func() { s.putService(name("web"), svc("web")) })
	s.handOver(Ranges{}, []Consumer{r})
	s.do(func() { s.putNode(&catalog.Node{Name: "a", Zone: "z"}) })
	s.handOver(Ranges{}, []Consumer{r})
	if r.replaced != 2 || r.node.Zone != "z" || len(r.views) != 1 {
		t.Errorf("got %+v", r)
	}
}

// Whatever of a slice changes is news, but for its trigger time: each field is
// changed alone.
func TestEveryFieldOfASliceIsNews(t *testing.T) {
	whole := func() *catalog.Slice {
		s := slice("web-1", "web", "10.0.0.1")
		s.Ports = []catalog.SlicePort{{Name: "http"}}
		return s
	}
	other := map[string]any{
		"Name": name("x"), "Service": name("x"), "IPv6": true, "Ports": []catalog.SlicePort{{Name: "x"}}, "Endpoints": []catalog.Endpoint{},
		"Faults": []catalog.Fault{{}}, "Trigger": time.Unix(1, 0),
		"Addr": netip.MustParseAddr("10.0.0.2"), "Node": "x", "Zone": "x", "Hostname": "x", "Ready": true, "Serving": true, "Terminating": true,
		"NodeHints": []string{"x"}, "ZoneHints": []string{"x"},
	}
	for _, part := range []func(*catalog.Slice) reflect.Value{
		func(s *catalog.Slice) reflect.Value { return reflect.ValueOf(s).Elem() },
		func(s *catalog.Slice) reflect.Value { return reflect.ValueOf(&s.Endpoints[0]).Elem() },
	} {
		for i := range part(whole()).NumField() {
			changed := whole()
			field := part(changed).Type().Field(i).Name
			value, ok := other[field]
			if !ok {
				t.Errorf("%s is a new field: is it compared?", field)
				continue
			}
			part(changed).Field(i).Set(reflect.ValueOf(value))
			if got := sameSlice(whole(), changed); got != (field == "Trigger") {
				t.Errorf("with another %s the slices are the same: %v", field, got)
			}
		}
	}
}

// A list that is streamed is translated object by object while it comes, and both
// forms are understood afterwards.
func TestStreamedListHoldsNoObjects(t *testing.T) {
	s := newState("a")
	st := &store[*corev1.Service, *catalog.Service]{
		state: s, listed: listedServices, translate: catalog.FromService, put: s.putService,
		names: func() []types.NamespacedName { return keys(s.services) },
	}
	object := func(n string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: n}}
	}
	kept, err := st.Transformer()(object("web"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := kept.(runtime.Object); ok {
		t.Errorf("%T is kept", kept)
	}
	if err := st.Replace([]any{kept, object("plain")}, ""); err != nil {
		t.Fatal(err)
	}
	if s.services[name("web")] == nil || s.services[name("plain")] == nil {
		t.Errorf("got %v", s.services)
	}
	if err := st.Replace([]any{kept}, ""); err != nil || s.services[name("plain")] != nil {
		t.Errorf("%v; got %v", err, s.services)
	}
	if _, err := st.Transformer()(&corev1.Pod{}); err == nil {
		t.Error("a pod is no Service")
	}
}
