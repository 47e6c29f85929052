package dataplane

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"testing"

	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"

	"portico.dev/portico/internal/agent"
	"portico.dev/portico/internal/core/catalog"
)

// live gives the bytes of the heap that somebody still needs.
func live() uint64 {
	runtime.GC()
	runtime.GC() // what the first one's finalizers let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What the agent and the data plane keep of the API's objects is a few hundred bytes
// for each endpoint: reflectors hold no objects, and each part one compact copy.
func TestMemory(t *testing.T) {
	w := newWorld(t)
	const services, perService, most = 1000, 10, 700
	var objects []apiruntime.Object
	for i := range services {
		svc, slice := scaleService(i)
		svc.Spec.ClusterIP = fmt.Sprintf("10.97.%d.%d", i/250, i%250+1)
		objects = append(objects, svc, slice)
	}
	client := fake.NewClientset(objects...)
	before := live()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- agent.Run(ctx, client, "node", slog.New(slog.DiscardHandler), agent.Ranges{}, w.plane) }()
	w.settled()
	if n := len(w.plane.State().Frontends); n != services {
		t.Fatalf("%d frontends, want %d", n, services)
	}
	each := (int64(live()) - int64(before)) / (services * perService)
	t.Logf("%d bytes for each endpoint", each)
	if each > most {
		t.Errorf("%d bytes for each endpoint, want at most %d", each, most)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	runtime.KeepAlive(client)
}

// One endpoint that changes makes little garbage, from the view to the kernel's
// answer, however many Services there are.
func TestGarbage(t *testing.T) {
	w := newWorld(t)
	var views []catalog.View
	for i := range 1000 {
		svc, slice := scaleService(i)
		svc.Spec.ClusterIP = fmt.Sprintf("10.97.%d.%d", i/250, i%250+1)
		c := catalog.FromService(svc)
		views = append(views, catalog.View{Name: c.Name, Service: c, Slices: []*catalog.Slice{catalog.FromSlice(slice)}})
	}
	w.replace(views...)
	_, slice := scaleService(0)
	other := views[0]
	slice.Endpoints[3].Addresses[0] = "10.255.0.3"
	other.Slices = []*catalog.Slice{catalog.FromSlice(slice)}
	const rounds, most = 200, 250
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range rounds {
		w.update([]catalog.View{other, views[0]}[i%2])
	}
	runtime.ReadMemStats(&after)
	each, size := (after.Mallocs-before.Mallocs)/rounds, (after.TotalAlloc-before.TotalAlloc)/rounds
	t.Logf("%d allocations, %d bytes for each change", each, size)
	if each > most {
		t.Errorf("%d allocations for each change, want at most %d", each, most)
	}
}
