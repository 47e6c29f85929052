package leader

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func config(client *fake.Clientset, identity string) Config {
	return Config{
		Leases: client.CoordinationV1(), Namespace: "kube-system", Name: "test", Identity: identity, Log: slog.New(slog.DiscardHandler),
		// A Lease holds for whole seconds.
		Timing: Timing{Duration: 2 * time.Second, Deadline: 200 * time.Millisecond, Retry: 20 * time.Millisecond},
	}
}

// patient is the timing of a Lease that isn't lost while a test runs.
var patient = Timing{Duration: time.Hour, Deadline: time.Minute, Retry: 20 * time.Millisecond}

// contender runs in the background; its channels tell what happens.
type contender struct {
	began, ended chan struct{} // the job
	returned     chan error    // Run
	hold         chan struct{} // the job goes on until it is closed
	stop         context.CancelFunc
}

func contend(t *testing.T, c Config) *contender {
	ctx, cancel := context.WithCancel(t.Context())
	k := &contender{began: make(chan struct{}, 9), ended: make(chan struct{}, 9), returned: make(chan error, 1), hold: make(chan struct{}), stop: cancel}
	go func() {
		k.returned <- Run(ctx, c, func(ctx context.Context) {
			k.began <- struct{}{}
			<-ctx.Done()
			<-k.hold
			k.ended <- struct{}{}
		})
	}()
	return k
}

func holder(t *testing.T, client *fake.Clientset) string {
	l, err := client.CoordinationV1().Leases("kube-system").Get(t.Context(), "test", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if l.Spec.HolderIdentity == nil {
		return ""
	}
	return *l.Spec.HolderIdentity
}

// The Lease is given back only when the job has ended, and then at once.
func TestReleaseWaitsForTheJob(t *testing.T) {
	client := fake.NewClientset()
	mine := config(client, "a")
	mine.Timing = patient // it isn't to be lost on a slow machine
	a := contend(t, mine)
	<-a.began
	b := contend(t, config(client, "b"))
	close(b.hold)
	a.stop()
	select {
	case <-b.began:
		t.Fatal("b leads while a's job runs")
	case <-time.After(100 * time.Millisecond):
	}
	if got := holder(t, client); got != "a" {
		t.Fatalf("the Lease is %q's while a's job runs", got)
	}
	close(a.hold)
	<-a.ended
	if err := <-a.returned; err != nil {
		t.Error(err)
	}
	<-b.began
	b.stop()
	if err := <-b.returned; err != nil {
		t.Error(err)
	}
	if got := holder(t, client); got != "" {
		t.Errorf("the Lease is still %q's", got)
	}
}

// A job that hangs when the process is to end doesn't keep the Lease, nor the process.
func TestReleaseOfAJobThatHangs(t *testing.T) {
	client := fake.NewClientset()
	c := config(client, "a")
	c.Timing = Timing{Duration: time.Hour, Deadline: time.Hour - 100*time.Millisecond, Retry: 20 * time.Millisecond}
	k := contend(t, c)
	<-k.began
	k.stop()
	select {
	case err := <-k.returned:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it waits for the job")
	}
	if got := holder(t, client); got != "" {
		t.Errorf("the Lease is still %q's", got)
	}
	close(k.hold)
	<-k.ended
}

// After a crash the same identity goes on without waiting for the Lease to end.
func TestSameIdentityGoesOn(t *testing.T) {
	client := fake.NewClientset()
	c := config(client, "a")
	c.Timing = patient
	crashed := contend(t, c)
	<-crashed.began
	again := contend(t, c)
	select {
	case <-again.began:
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for its own Lease")
	}
	for _, k := range []*contender{crashed, again} {
		close(k.hold)
		k.stop()
		<-k.returned
	}
}

// A Lease that can't be renewed ends the job, and is contended for again.
func TestLostLease(t *testing.T) {
	client := fake.NewClientset()
	var broken atomic.Bool
	client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		return broken.Load(), nil, context.DeadlineExceeded
	})
	k := contend(t, config(client, "a"))
	close(k.hold)
	<-k.began
	broken.Store(true)
	select {
	case <-k.ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the job goes on without the Lease")
	}
	broken.Store(false)
	select {
	case <-k.began:
	case <-time.After(30 * time.Second):
		t.Fatal("it doesn't contend again")
	}
	k.stop()
	<-k.returned
}

// A Lease that couldn't be renewed stays taken while its job still runs.
func TestLostLeaseIsNotGivenBack(t *testing.T) {
	client := fake.NewClientset()
	var broken atomic.Bool
	client.PrependReactor("update", "leases", func(a clienttesting.Action) (bool, runtime.Object, error) {
		holder := a.(clienttesting.UpdateAction).GetObject().(*coordinationv1.Lease).Spec.HolderIdentity
		return broken.Load() && *holder == "a", nil, context.DeadlineExceeded // to give it back would work
	})
	c := config(client, "a")
	lost := make(chan struct{})
	release := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	returned := make(chan error, 1)
	go func() {
		returned <- Run(ctx, c, func(ctx context.Context) {
			broken.Store(true)
			<-ctx.Done()
			lost <- struct{}{}
			<-release
		})
	}()
	<-lost
	if got := holder(t, client); got != "a" {
		t.Errorf("the Lease is %q's while a's job runs", got)
	}
	cancel()
	close(release)
	if err := <-returned; err != nil {
		t.Error(err)
	}
}

// Who wakes up late gives back its own Lease only, not another's who has it by now.
func TestAnothersLease(t *testing.T) {
	for name, left := range map[string]string{"a": "", "b": "b"} {
		client := fake.NewClientset(&coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "test"}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name},
		})
		c := config(client, "a")
		c.giveBack(t.Context())
		if got := holder(t, client); got != left {
			t.Errorf("%s's Lease is %q's", name, got)
		}
	}
}

func TestBadTiming(t *testing.T) {
	c := config(fake.NewClientset(), "a")
	c.Timing.Deadline = c.Timing.Duration
	if err := Run(t.Context(), c, nil); err == nil {
		t.Error("no error")
	}
}
