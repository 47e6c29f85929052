package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"

	"portico.dev/portico/test/fakewatch"
)

// world is a controller on fake clients, whose time stands still.
type world struct {
	*testing.T
	kube  *fake.Clientset
	clock *clocktesting.FakeClock
}

// begin runs the controller until the test ends. All objects are there before it: the
// fake clients' watches show nothing of what happens before they begin.
func begin(t *testing.T, objects ...runtime.Object) *world {
	t.Helper()
	w := &world{t, fake.NewClientset(objects...), clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0))}
	w.kube.Resources = []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "services", Namespaced: true, Kind: "Service", Verbs: metav1.Verbs{"list", "watch", "delete"}},
	}}}
	scheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	w.kube.PrependReactor("update", "resourcequotas", w.guardVersion)
	watched := fakewatch.Of(t, w.kube, "resourcequotas", "services", "pods")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Deps{
			Client: w.kube, Metadata: metadatafake.NewSimpleMetadataClient(scheme), Discovery: w.kube.Discovery(),
			Log: slog.New(slog.DiscardHandler), Clock: w.clock,
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	watched()
	return w
}

// guardVersion writes a quota unless its writer hasn't seen the last version. The fake server
// would let a refund be lost that way.
func (w *world) guardVersion(a clienttesting.Action) (bool, runtime.Object, error) {
	q := a.(clienttesting.UpdateAction).GetObject().(*corev1.ResourceQuota)
	stored, err := w.kube.Tracker().Get(a.GetResource(), q.Namespace, q.Name)
	if err != nil {
		return true, nil, err
	}
	if stored.(*corev1.ResourceQuota).ResourceVersion != q.ResourceVersion {
		return true, nil, apierrors.NewConflict(a.GetResource().GroupResource(), q.Name, errors.New("changed"))
	}
	version, err := strconv.Atoi(q.ResourceVersion)
	if err != nil {
		return true, nil, err
	}
	q.ResourceVersion = strconv.Itoa(version + 1)
	return true, q, w.kube.Tracker().Update(a.GetResource(), q, q.Namespace)
}

func (w *world) status() corev1.ResourceQuotaStatus {
	w.Helper()
	q, err := w.kube.CoreV1().ResourceQuotas("a").Get(w.Context(), "q", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return q.Status
}

// eventually steps the clock between looks, and bounds only a test that fails.
func (w *world) eventually(what string, step time.Duration, used names) {
	w.Helper()
	var got corev1.ResourceList
	for range 2000 {
		if got = w.status().Used; equality.Semantic.DeepEqual(got, list(used)) {
			return
		}
		time.Sleep(5 * time.Millisecond)
		w.clock.Step(step)
	}
	w.Fatalf("%s: used is %v, want %v", what, got, used)
}

func limited(hard, used names) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "q", UID: "1", ResourceVersion: "1"},
		Spec:       corev1.ResourceQuotaSpec{Hard: list(hard)},
	}
	if used != nil {
		q.Status = corev1.ResourceQuotaStatus{Hard: list(hard), Used: list(used)}
	}
	return q
}

// API-13: a new quota counts what is there, follows what comes, and gives back what goes,
// without any time passing.
func TestCountsAndRefunds(t *testing.T) {
	w := begin(t, limited(names{"services": "5", "services.nodeports": "5"}, nil), nodePorts("a", "x", 2), nodePorts("b", "y", 1))
	w.eventually("a new quota", 0, names{"services": "1", "services.nodeports": "2"})
	if _, err := w.kube.CoreV1().Services("a").Create(t.Context(), nodePorts("a", "z", 1), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("one that nobody charged", 0, names{"services": "2", "services.nodeports": "3"})
	if err := w.kube.CoreV1().Services("a").Delete(t.Context(), "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("one that went", 0, names{"services": "1", "services.nodeports": "1"})
}

// overcharged is a quota whose use is more than what is there: four Services. That it was
// looked at shows by the pods, which aren't counted yet.
func overcharged() *corev1.ResourceQuota {
	q := limited(names{"services": "5", "pods": "5"}, names{"services": "4"})
	q.Status.Hard = list(names{"services": "5"})
	return q
}

// API-13: a place that was charged for nothing stays taken while the object may still come,
// and is free after that.
func TestLostCharges(t *testing.T) {
	w := begin(t, overcharged(), nodePorts("a", "x", 0))
	w.eventually("the first look", 0, names{"services": "4", "pods": "0"})
	var early atomic.Bool
	began := w.clock.Now()
	w.kube.PrependReactor("update", "resourcequotas", func(clienttesting.Action) (bool, runtime.Object, error) {
		if w.clock.Since(began) < settle {
			early.Store(true)
		}
		return false, nil, nil
	})
	w.eventually("stillness", time.Second, names{"services": "1", "pods": "0"})
	if early.Load() {
		t.Error("the use was lowered too early")
	}
}

// API-13: a refund whose write may have been done isn't paid again; one that was refused
// is.
func TestRefundIsPaidOnce(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		used string
	}{
		"refused": {apierrors.NewConflict(schema.GroupResource{Resource: "resourcequotas"}, "q", errors.New("changed")), "2"},
		"unknown": {fmt.Errorf("write: %w", context.DeadlineExceeded), "3"},
	} {
		t.Run(name, func(t *testing.T) {
			w := begin(t, overcharged(), nodePorts("a", "x", 0), nodePorts("a", "y", 0))
			w.eventually("the first look", 0, names{"services": "4", "pods": "0"})
			writes := make(chan error, 100)
			var failed atomic.Bool
			w.kube.PrependReactor("update", "resourcequotas", func(clienttesting.Action) (bool, runtime.Object, error) {
				err := c.err
				if failed.Swap(true) {
					err = nil
				}
				writes <- err
				return err != nil, nil, err
			})
			for _, name := range []string{"x", "y"} {
				if err := w.kube.CoreV1().Services("a").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
				for len(writes) == 0 {
					time.Sleep(time.Millisecond)
					w.clock.Step(time.Millisecond)
				}
				<-writes
			}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "last"}}
			if _, err := w.kube.CoreV1().Pods("a").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			w.eventually("both refunds", time.Millisecond, names{"services": c.used, "pods": "1"})
		})
	}
}

// API-13: what isn't served uses nothing, and is looked for again until it is.
func TestLooksForWhatIsServedLater(t *testing.T) {
	w := begin(t, limited(names{"count/widgets.example.com": "5"}, nil))
	w.eventually("not served", 0, names{"count/widgets.example.com": "0"})
	looks := func() (n int) {
		for _, a := range w.kube.Actions() {
			if a.GetResource().Resource == "group" {
				n++
			}
		}
		return n
	}
	before := looks()
	for range 2000 {
		if looks() > before {
			return
		}
		time.Sleep(5 * time.Millisecond)
		w.clock.Step(relook / 10)
	}
	t.Error("it isn't looked for again")
}
