package dataplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// fake is a Backend that writes down what is asked of it.
type fake struct {
	mu        sync.Mutex // guards the following
	calls     []string
	fail      int // the next calls fail
	disturbed chan struct{}
}

func (f *fake) call(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
	if f.fail > 0 {
		f.fail--
		return errors.New("no kernel today")
	}
	return nil
}

func (f *fake) Sync(_ context.Context, s State) error {
	return f.call("sync %d frontends at %v", len(s.Frontends), s.NodeAddresses)
}

func (f *fake) Apply(_ context.Context, c routing.Change) error {
	var words []string
	for _, s := range c.Set {
		words = append(words, "+"+s.Key.String())
	}
	for _, k := range c.Removed {
		words = append(words, "-"+k.String())
	}
	slices.Sort(words)
	return f.call("apply %s", strings.Join(words, " "))
}

func (f *fake) Finish(context.Context) error { return nil }

func (f *fake) SetNodeAddresses(_ context.Context, a []netip.Addr) error { return f.call("at %v", a) }
func (f *fake) Verify(context.Context, State) ([]string, error)          { return nil, nil }
func (f *fake) Cleanup(context.Context) error                            { return nil }
func (f *fake) Disturbed() <-chan struct{}                               { return f.disturbed }
func (f *fake) Close() error                                             { return nil }

func (f *fake) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	calls := f.calls
	f.calls = nil
	return calls
}

type bench struct {
	t    *testing.T
	fake *fake
	*Plane
	pauses chan time.Duration
	tick   chan time.Time
}

func start(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, fake: &fake{disturbed: make(chan struct{}, 1)}, pauses: make(chan time.Duration, 10), tick: make(chan time.Time)}
	b.Plane = New(b.fake, Options{
		NodeAddresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		After:         func(d time.Duration) <-chan time.Time { b.pauses <- d; return b.tick },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) settled() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.Wait(ctx); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) expect(want ...string) {
	b.t.Helper()
	if got := b.fake.took(); !slices.Equal(got, want) {
		b.t.Errorf("the back end was asked %q, want %q", got, want)
	}
}

func view(name string, port uint16) catalog.View {
	n := types.NamespacedName{Namespace: "default", Name: name}
	if port == 0 {
		return catalog.View{Name: n}
	}
	return catalog.View{Name: n, Service: &catalog.Service{
		Name: n, Type: corev1.ServiceTypeClusterIP, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []catalog.ServicePort{{Protocol: catalog.TCP, Port: port}},
	}}
}

var here = &catalog.Node{Name: "a"}

func TestPlaneHandsOverChanges(t *testing.T) {
	b := start(t)
	b.SetNodeAddresses([]netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("127.0.0.1")})
	if err := b.Healthy(); !errors.Is(err, ErrNotSynced) {
		t.Errorf("before the first list: %v", err)
	}
	b.Replace(here, []catalog.View{view("a", 80), view("b", 81)})
	b.settled()
	b.expect("sync 2 frontends at [192.0.2.2]")
	b.Update([]catalog.View{view("a", 82)})
	b.settled()
	b.expect("apply +TCP 10.96.0.1:82 -TCP 10.96.0.1:80")
	b.Update([]catalog.View{view("a", 82)})
	b.settled()
	b.expect()
	b.SetNodeAddresses([]netip.Addr{netip.MustParseAddr("192.0.2.3")})
	b.settled()
	b.expect("at [192.0.2.3]")
	b.Replace(here, []catalog.View{view("b", 81)})
	b.settled()
	b.expect("apply -TCP 10.96.0.1:82")
	for range 2 { // the second time it is no news
		b.SetServiceRanges([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")})
		b.settled()
	}
	b.expect("sync 1 frontends at [192.0.2.3]")
	if got := b.State().ServiceRanges; len(got) != 1 {
		t.Errorf("the state has the ranges %v", got)
	}
	if err := b.Healthy(); err != nil {
		t.Error(err)
	}
}

// A failure is followed by a full sync after a pause that doubles; news that come
// meanwhile go along.
func TestPlaneRetries(t *testing.T) {
	b := start(t)
	b.Replace(here, nil)
	b.settled()
	b.fake.took()
	b.fake.failNext(2)
	b.Update([]catalog.View{view("a", 80)})
	if d := <-b.pauses; d != retryMin {
		t.Errorf("first pause %v", d)
	}
	if b.Healthy() == nil {
		t.Error("healthy after a failure")
	}
	b.Update([]catalog.View{view("b", 81)})
	b.tick <- time.Time{}
	if d := <-b.pauses; d != 2*retryMin {
		t.Errorf("second pause %v", d)
	}
	b.tick <- time.Time{}
	b.settled()
	b.expect("apply +TCP 10.96.0.1:80", "sync 2 frontends at [192.0.2.1]", "sync 2 frontends at [192.0.2.1]")
	b.Update([]catalog.View{view("c", 82)})
	b.settled()
	b.expect("apply +TCP 10.96.0.1:82")
}

func (f *fake) failNext(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = n
}

// A disturbance is repaired by a full sync without anybody asking.
func TestPlaneRepairs(t *testing.T) {
	b := start(t)
	b.Replace(here, []catalog.View{view("a", 80)})
	b.settled()
	b.fake.took()
	b.fake.disturbed <- struct{}{}
	deadline := time.Now().Add(30 * time.Second)
	for {
		if got := b.fake.took(); len(got) > 0 {
			if got[0] != "sync 1 frontends at [192.0.2.1]" {
				t.Errorf("got %q", got)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("not repaired")
		}
		time.Sleep(time.Millisecond) // a disturbance has no caller who could wait
	}
}
