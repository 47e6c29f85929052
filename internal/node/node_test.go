package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/clock"

	"portico.dev/portico/test/fakewatch"
)

// patience is for things that take milliseconds unless the machine is busy.
const patience = 20 * time.Second

// rack is a Runtime of fake workloads that notes what happens, in order.
type rack struct {
	mu    sync.Mutex
	loads map[types.UID]*fakeLoad
	fail  error
	story []string
	// unknown is why it can't be told whether a pod has a workload.
	unknown error
	// unseen are the controllers of the pods whose workloads nobody knows.
	unseen []types.UID
}

func (r *rack) say(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.story = append(r.story, fmt.Sprintf(format, args...))
}

func (r *rack) told() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.story, "; ")
}

func (r *rack) setFail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = err
}

func (r *rack) Runs(pod *corev1.Pod) bool { return pod.Labels["kind"] != "container" }

func (r *rack) Start(_ context.Context, pod *corev1.Pod) (Workload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return nil, r.fail
	}
	r.story = append(r.story, "start")
	return r.add(pod.UID), nil
}

// add makes a running workload; the lock is held.
func (r *rack) add(uid types.UID) *fakeLoad {
	l := &fakeLoad{rack: r, uid: uid, news: make(chan struct{}, 1), over: make(chan struct{}), o: Observation{Phase: corev1.PodRunning, Started: t0}}
	r.loads[uid] = l
	return l
}

func (r *rack) Find(pod *corev1.Pod) (Workload, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l, ok := r.loads[pod.UID]; ok {
		return l, nil
	}
	return nil, r.unknown
}

func (r *rack) Workloads() []Workload {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Workload
	for _, l := range r.loads {
		out = append(out, l)
	}
	return out
}

func (r *rack) Unknown() []types.UID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.unseen)
}

func (r *rack) EndUnknown(_ context.Context, controller types.UID, _ time.Duration) error {
	r.say("end %s", controller)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unseen = slices.DeleteFunc(r.unseen, func(uid types.UID) bool { return uid == controller })
	return nil
}

func (r *rack) get(uid types.UID) *fakeLoad {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loads[uid]
}

type fakeLoad struct {
	rack *rack
	uid  types.UID
	news chan struct{}
	over chan struct{}
	once sync.Once
	deaf bool // ends only without grace

	mu sync.Mutex
	o  Observation
}

func (l *fakeLoad) PodUID() types.UID        { return l.uid }
func (l *fakeLoad) Changed() <-chan struct{} { return l.news }

func (l *fakeLoad) Observe() Observation {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.o
}

func (l *fakeLoad) become(change func(*Observation)) {
	l.mu.Lock()
	change(&l.o)
	l.mu.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *fakeLoad) Stop(ctx context.Context, grace time.Duration) error {
	l.rack.say("stop %v", grace.Round(time.Second))
	if !l.deaf || grace < time.Second {
		l.once.Do(func() {
			l.become(func(o *Observation) { o.Phase, o.Ready, o.Ended = corev1.PodSucceeded, false, t0 })
			close(l.over)
		})
	}
	select {
	case <-l.over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *fakeLoad) Remove() error {
	l.rack.say("remove")
	l.rack.mu.Lock()
	defer l.rack.mu.Unlock()
	delete(l.rack.loads, l.uid)
	return nil
}

type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) Event(_ runtime.Object, kind, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, kind+" "+reason+": "+message)
}

func (e *events) all() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.list, "\n")
}

// site is a running Node with its fakes.
type site struct {
	*rack
	*events
	client *fake.Clientset
	node   *Node
	stop   func()
}

func newSite(t *testing.T, handOff HandOff, before func(*rack), objects ...runtime.Object) *site {
	t.Helper()
	s := &site{rack: &rack{loads: map[types.UID]*fakeLoad{}}, events: &events{}, client: fake.NewClientset(objects...)}
	if before != nil {
		before(s.rack)
	}
	s.node = New(Config{
		Name: "node-a", HostIPs: hosts, Client: s.client, Runtime: s.rack, Recorder: s.events,
		HandOff: handOff, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	})
	watched := fakewatch.Of(t, s.client, "pods")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.node.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.stop)
	watched()
	return s
}

// until waits for the pod to be as it should be; nil means gone.
func (s *site) until(t *testing.T, what string, is func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		pod, err := s.client.CoreV1().Pods("default").Get(context.Background(), "virt-launcher-vm", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			pod = nil
		} else if err != nil {
			t.Fatal(err)
		}
		if is(pod) {
			return pod
		}
		if time.Now().After(deadline) {
			t.Fatalf("the pod is never %s: %+v; story: %s", what, pod, s.told())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func isReady(p *corev1.Pod) bool {
	return p != nil && condition(p.Status, corev1.PodReady).Status == corev1.ConditionTrue
}

func gone(p *corev1.Pod) bool { return p == nil }

// markDeleted does what the API server does with a delete that has a grace period.
func (s *site) markDeleted(t *testing.T, grace int64) {
	t.Helper()
	pods := s.client.CoreV1().Pods("default")
	pod, err := pods.Get(t.Context(), "virt-launcher-vm", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	at := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &at, &grace
	if _, err := pods.Update(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func openGate(o *Observation) {
	o.Ready = true
	o.Conditions = []corev1.PodCondition{{Type: "kubevirt.io/virtual-machine-unpaused", Status: corev1.ConditionTrue}}
}

// VM-07: the order in which a deleted pod ends.
func TestLifeOfAPod(t *testing.T) {
	var s *site
	s = newSite(t, func(_ context.Context, pod *corev1.Pod) error {
		now, err := s.client.CoreV1().Pods(pod.Namespace).Get(context.Background(), pod.Name, metav1.GetOptions{})
		s.say("hand-off while ready is %s, %v", condition(now.Status, corev1.PodReady).Status, err)
		return nil
	}, nil, testPod())
	s.until(t, "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	s.get("pod-1").become(openGate)
	p := s.until(t, "ready", isReady)
	if p.Status.PodIP != "10.245.0.2" {
		t.Errorf("pod IP %s", p.Status.PodIP)
	}
	s.until(t, "listed", func(*corev1.Pod) bool { return s.node.Healthy() == nil && len(s.node.Pods()) == 1 })
	s.markDeleted(t, 30)
	s.until(t, "gone", gone)
	if want := "start; hand-off while ready is False, <nil>; stop 30s; remove"; s.told() != want {
		t.Errorf("story: %s\nwant:  %s", s.told(), want)
	}
}

func TestEndsAreFinal(t *testing.T) {
	s := newSite(t, nil, nil, testPod())
	s.until(t, "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	s.get("pod-1").become(func(o *Observation) { o.Phase, o.Reason, o.Message = corev1.PodFailed, "QEMUFailed", "killed" })
	p := s.until(t, "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "QEMUFailed" || p.Status.ContainerStatuses[0].State.Terminated.ExitCode != 1 {
		t.Errorf("status %+v", p.Status)
	}
	if !strings.Contains(s.all(), "Warning QEMUFailed: killed") {
		t.Errorf("events: %s", s.all())
	}
	s.markDeleted(t, 30)
	s.until(t, "gone", gone)
	if want := "start; remove"; s.told() != want {
		t.Errorf("story: %s, want %s", s.told(), want)
	}
}

// A failed start says why, and a remedy is noticed.
func TestFailedStartIsToldAndTriedAgain(t *testing.T) {
	s := newSite(t, nil, func(r *rack) {
		r.fail = &StartError{Reason: "ImageMissing", Err: errors.New("bring it with: portico image import FILE")}
	}, testPod())
	p := s.until(t, "told", func(p *corev1.Pod) bool { return p.Status.Reason == "ImageMissing" })
	if p.Status.Phase != corev1.PodPending || !strings.Contains(p.Status.Message, "portico image import") {
		t.Errorf("status %+v", p.Status)
	}
	if got := s.all(); got != "Warning ImageMissing: bring it with: portico image import FILE" {
		t.Errorf("events: %s", got)
	}
	s.setFail(nil)
	p = s.until(t, "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	if p.Status.Reason != "" {
		t.Errorf("the old reason stays: %+v", p.Status)
	}
}

// VM-06: a restart of the daemon neither stops nor starts anything.
func TestRestartAdopts(t *testing.T) {
	pod := testPod()
	pod.Status.Phase = corev1.PodRunning
	s := newSite(t, nil, func(r *rack) { r.add("pod-1").o.Ready = true }, pod)
	s.until(t, "observed", func(p *corev1.Pod) bool { return len(p.Status.ContainerStatuses) > 0 })
	s.stop()
	if s.told() != "" || s.get("pod-1") == nil {
		t.Errorf("story: %q, want none", s.told())
	}
}

func TestRunningPodWithoutGuestFailed(t *testing.T) {
	pod := testPod()
	pod.Status.Phase = corev1.PodRunning
	s := newSite(t, nil, nil, pod)
	p := s.until(t, "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "GuestLost" || s.told() != "" {
		t.Errorf("status %+v, story %q", p.Status, s.told())
	}
}

// VM-06: a pod whose guest may run unseen is neither failed nor started again, and when it is
// deleted it stays until that is told.
func TestUnknownGuestIsLeft(t *testing.T) {
	pod := testPod()
	pod.Status.Phase = corev1.PodRunning
	ending := pod.DeepCopy()
	ending.DeletionTimestamp = &metav1.Time{Time: t0}
	for _, p := range []*corev1.Pod{pod, ending} {
		client, told := fake.NewClientset(p), &events{}
		n := New(Config{
			Name: "node-a", Client: client, Runtime: &rack{unknown: errors.New("its file can't be read")},
			Recorder: told, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
		})
		w := n.newWorker(p.UID, p.Name)
		w.set(p)
		if done, again := w.step(t.Context()); done || again == 0 || len(client.Actions()) > 0 {
			t.Errorf("done %v, again in %v, %v", done, again, client.Actions())
		}
		if !strings.Contains(told.all(), "GuestUnknown: its file can't be read") {
			t.Errorf("events: %s", told.all())
		}
	}
}

// VM-06: guests whose pod is gone are stopped, whether it went before or after.
func TestOrphansAreStopped(t *testing.T) {
	s := newSite(t, nil, func(r *rack) { r.add("nobody") }, testPod())
	s.until(t, "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	if err := s.client.CoreV1().Pods("default").Delete(t.Context(), "virt-launcher-vm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "without guests", func(*corev1.Pod) bool { return s.get("nobody") == nil && s.get("pod-1") == nil })
}

// VM-06: the first list that the daemon gets may be older than a guest: it runs on, and
// what is in no list ends.
func TestOldListEndsNoGuest(t *testing.T) {
	pod := testPod()
	pod.Status.Phase = corev1.PodRunning
	r := &rack{loads: map[types.UID]*fakeLoad{}}
	r.add("pod-1")
	r.add("nobody")
	client := fake.NewClientset(pod)
	lists := 0
	client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		lists++
		return lists == 1, nil, errors.New("the API is away")
	})
	n := New(Config{Name: "node-a", Client: client, Runtime: r, Recorder: &events{}, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
	n.adoptOrphans(t.Context()) // no watch has told of a pod
	n.working.Wait()            // for the end of all guests that are to end
	if r.get("nobody") != nil || r.get("pod-1") == nil || lists != 2 {
		t.Errorf("after %d lists: %s", lists, r.told())
	}
}

// A second delete without grace ends the wait for the first.
func TestGraceCanBeCutShort(t *testing.T) {
	s := newSite(t, nil, func(r *rack) { r.add("pod-1").deaf = true }, testPod())
	s.until(t, "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	s.markDeleted(t, 600)
	s.until(t, "stopping", func(*corev1.Pod) bool { return strings.Contains(s.told(), "stop") })
	if err := s.client.CoreV1().Pods("default").Delete(t.Context(), "virt-launcher-vm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.until(t, "without a guest", func(*corev1.Pod) bool { return s.get("pod-1") == nil })
	if want := "stop 10m0s; stop 0s; remove"; s.told() != want {
		t.Errorf("story: %s, want %s", s.told(), want)
	}
}

func TestPodsOfOtherKindsWait(t *testing.T) {
	pod := testPod()
	pod.Labels = map[string]string{"kind": "container"}
	s := newSite(t, nil, nil, pod)
	s.until(t, "told", func(p *corev1.Pod) bool { return p.Status.Reason == "NoRuntime" && p.Status.Phase == corev1.PodPending })
	s.markDeleted(t, 30)
	s.until(t, "gone", gone)
}

// VM-07: the hand-off follows the slices.
func TestSliceHandOff(t *testing.T) {
	yes, no := true, false
	slice := func(ready *bool) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			Endpoints: []discoveryv1.Endpoint{
				{TargetRef: &corev1.ObjectReference{UID: "another"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
				{TargetRef: &corev1.ObjectReference{UID: "pod-1"}, Conditions: discoveryv1.EndpointConditions{Ready: ready}},
			},
		}
	}
	client := fake.NewClientset(slice(&yes))
	watched := fakewatch.Of(t, client, "endpointslices")
	done := make(chan error, 1)
	go func() {
		done <- SliceHandOff(client, clock.RealClock{}, time.Millisecond, patience)(context.Background(), testPod())
	}()
	watched()
	select {
	case err := <-done:
		t.Fatalf("it ended while the pod is listed as ready: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if _, err := client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), slice(&no), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// Unset means ready; the wait is bounded.
	client = fake.NewClientset(slice(nil))
	if err := SliceHandOff(client, clock.RealClock{}, time.Millisecond, 20*time.Millisecond)(t.Context(), testPod()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}
