package admissionchain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	clocktesting "k8s.io/utils/clock/testing"

	"portico.dev/portico/test/fakewatch"
)

// till is a quota of ten Services, of which three are used, and what charges it.
type till struct {
	*testing.T
	kube  *fake.Clientset
	quota *Quota
	clock *clocktesting.FakeClock
}

func openTill(t *testing.T) *till {
	t.Helper()
	ten := corev1.ResourceList{"services": resource.MustParse("10"), "services.nodeports": resource.MustParse("10")}
	kube := fake.NewClientset(&corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "ten", UID: "1", ResourceVersion: "1"},
		Spec:       corev1.ResourceQuotaSpec{Hard: ten},
		Status: corev1.ResourceQuotaStatus{Hard: ten, Used: corev1.ResourceList{
			"services": resource.MustParse("3"), "services.nodeports": resource.MustParse("0"),
		}},
	})
	kube.PrependReactor("update", "resourcequotas", compareAndSwap(kube))
	watched := fakewatch.Of(t, kube, "resourcequotas")
	ctx, cancel := context.WithCancel(t.Context())
	factory := informers.NewSharedInformerFactory(kube, 0)
	q := NewQuota(ctx, kube, factory)
	c := clocktesting.NewFakeClock(time.Unix(1_700_000_000, 0))
	q.clock = c
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
	watched()
	return &till{t, kube, q, c}
}

// compareAndSwap gives the fake server versions, as the real one has.
func compareAndSwap(kube *fake.Clientset) clienttesting.ReactionFunc {
	gvr := corev1.SchemeGroupVersion.WithResource("resourcequotas")
	return func(action clienttesting.Action) (bool, runtime.Object, error) { // one at a time
		q := action.(clienttesting.UpdateAction).GetObject().(*corev1.ResourceQuota).DeepCopy()
		is, err := kube.Tracker().Get(gvr, q.Namespace, q.Name)
		if err != nil {
			return true, nil, err
		}
		if is := is.(*corev1.ResourceQuota); is.ResourceVersion != q.ResourceVersion {
			return true, nil, apierrors.NewConflict(gvr.GroupResource(), q.Name, errors.New("changed"))
		}
		n, err := strconv.Atoi(q.ResourceVersion)
		if err != nil {
			return true, nil, err
		}
		q.ResourceVersion = strconv.Itoa(n + 1)
		return true, q, kube.Tracker().Update(gvr, q, q.Namespace)
	}
}

func (w *till) used() string {
	w.Helper()
	q, err := w.kube.CoreV1().ResourceQuotas("a").Get(w.Context(), "ten", metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	n, ports := q.Status.Used["services"], q.Status.Used["services.nodeports"]
	return fmt.Sprintf("%d services, %d node ports", n.Value(), ports.Value())
}

// service is a Service with so many node ports.
func service(version string, nodePorts int) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "s", ResourceVersion: version}, Spec: corev1.ServiceSpec{Type: "ClusterIP"}}
	if nodePorts > 0 {
		s.Spec.Type, s.Spec.Ports = "NodePort", make([]corev1.ServicePort, nodePorts)
	}
	return s
}

func creating(s *corev1.Service, dry bool) admission.Attributes {
	return attributes(s, nil, admission.Create, dry)
}

func attributes(s *corev1.Service, old runtime.Object, op admission.Operation, dry bool) admission.Attributes {
	return admission.NewAttributesRecord(s, old, corev1.SchemeGroupVersion.WithKind("Service"), "a", "s",
		corev1.SchemeGroupVersion.WithResource("services"), "", op, &metav1.CreateOptions{}, dry, &user.DefaultInfo{})
}

// serve sends a request whose handler charges, and answers with code.
func (w *till) serve(verb string, code int, tries ...admission.Attributes) {
	w.Helper()
	handler := WithRefunds(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		for _, a := range tries {
			if err := w.quota.Validate(req.Context(), a, nil); err != nil {
				w.Error(err)
			}
		}
		if code != http.StatusOK {
			rw.WriteHeader(code)
		}
		fmt.Fprint(rw, "x")
	}), slog.New(slog.DiscardHandler))
	req := httptest.NewRequest(http.MethodPost, "/", nil)
	req = req.WithContext(request.WithRequestInfo(req.Context(), &request.RequestInfo{
		IsResourceRequest: true, Verb: verb, Namespace: "a", Resource: "services",
	}))
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, req)
	if answer.Code != code || answer.Body.String() != "x" {
		w.Errorf("answered %d %q", answer.Code, answer.Body)
	}
}

// API-13, ALLOC-03: what a request was charged stays charged when it may have stored its
// object, and comes back when it surely hasn't.
func TestRefunds(t *testing.T) {
	const before = "3 services, 0 node ports"
	one, two := creating(service("", 0), false), creating(service("", 2), false)
	grow := attributes(service("7", 3), service("7", 1), admission.Update, false)
	shrink := attributes(service("7", 0), service("7", 3), admission.Update, false)
	for name, c := range map[string]struct {
		verb  string
		code  int
		tries []admission.Attributes
		want  string
	}{
		"made":                     {"create", 201, []admission.Attributes{two}, "4 services, 2 node ports"},
		"made, without a code":     {"create", 200, []admission.Attributes{one}, "4 services, 0 node ports"},
		"taken":                    {"create", 409, []admission.Attributes{two}, before},
		"invalid":                  {"create", 422, []admission.Attributes{two}, before},
		"forbidden":                {"create", 403, []admission.Attributes{two}, before},
		"unknown":                  {"create", 504, []admission.Attributes{one}, "4 services, 0 node ports"},
		"failed":                   {"create", 500, []admission.Attributes{one}, "4 services, 0 node ports"},
		"stored, answer not shown": {"create", 406, []admission.Attributes{one}, "4 services, 0 node ports"},
		"made at the third try":    {"create", 201, []admission.Attributes{two, two, two}, "4 services, 2 node ports"},
		"never made":               {"create", 409, []admission.Attributes{two, two, two}, before},
		"unknown at the last try":  {"create", 500, []admission.Attributes{two, two}, "4 services, 2 node ports"},
		"changed":                  {"update", 200, []admission.Attributes{grow}, "3 services, 2 node ports"},
		"not changed":              {"patch", 409, []admission.Attributes{grow}, before},
		"made, then changed":       {"patch", 200, []admission.Attributes{one, grow}, "3 services, 2 node ports"},
		"less in the end":          {"patch", 200, []admission.Attributes{grow, shrink}, before},
		"less":                     {"patch", 422, []admission.Attributes{shrink}, before},
		"a dry run":                {"create", 409, []admission.Attributes{creating(service("", 2), true)}, before},
		"another verb":             {"delete", 409, []admission.Attributes{one}, "4 services, 0 node ports"},
	} {
		t.Run(name, func(t *testing.T) {
			w := openTill(t)
			w.serve(c.verb, c.code, c.tries...)
			if got := w.used(); got != c.want {
				t.Errorf("used: %s, want %s", got, c.want)
			}
		})
	}
}

// API-13: a refund that comes late is the quota controller's, which may have paid it; one
// whose write may have been done isn't written again; one in the way of others is.
func TestRefundsThatFail(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "resourcequotas"}, "ten", errors.New("changed"))
	for name, c := range map[string]struct {
		late time.Duration
		err  error // of the refund's first write
		want string
	}{
		"in time":  {backWithin, nil, "3 services, 0 node ports"},
		"late":     {backWithin + time.Second, nil, "4 services, 2 node ports"},
		"conflict": {0, conflict, "3 services, 0 node ports"},
		"unknown":  {0, context.DeadlineExceeded, "4 services, 2 node ports"},
	} {
		t.Run(name, func(t *testing.T) {
			w := openTill(t)
			var writes atomic.Int64
			w.kube.PrependReactor("update", "resourcequotas", func(clienttesting.Action) (bool, runtime.Object, error) {
				switch writes.Add(1) {
				case 1: // the charge
					w.clock.Step(c.late)
				case 2:
					return c.err != nil, nil, c.err
				}
				return false, nil, nil
			})
			w.serve("create", 409, creating(service("", 2), false))
			if got := w.used(); got != c.want {
				t.Errorf("used: %s, want %s", got, c.want)
			}
		})
	}
}

// API-13: a quota that came while the request was charged, or that was made anew, isn't
// given what may not have been taken from it.
func TestChargedQuotas(t *testing.T) {
	quota := func(uid types.UID, hard ...corev1.ResourceName) corev1.ResourceQuota {
		q := corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{UID: uid}, Status: corev1.ResourceQuotaStatus{Hard: corev1.ResourceList{}}}
		for _, name := range hard {
			q.Status.Hard[name] = resource.MustParse("9")
		}
		return q
	}
	stays, came, scoped := quota("stays", "services", "pods"), quota("came", "services"), quota("scoped", "services")
	grew, grewAfter := quota("grew", "services"), quota("grew", "services", "services.nodeports")
	scoped.Spec.Scopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}
	got := charged(creating(service("", 2), false),
		[]corev1.ResourceQuota{stays, grew, scoped}, []corev1.ResourceQuota{came, scoped, grewAfter, stays})
	if len(got) != 2 || !maps.Equal(got["stays"], map[corev1.ResourceName]int64{"services": 1}) || !maps.Equal(got["grew"], map[corev1.ResourceName]int64{"services": 1}) {
		t.Errorf("charged: %v", got)
	}
}

// What the cache doesn't show yet is remembered, until it does or the quota goes.
func TestAccountForgets(t *testing.T) {
	w := openTill(t)
	w.serve("create", 201, creating(service("", 0), false))
	q, err := w.kube.CoreV1().ResourceQuotas("a").Get(t.Context(), "ten", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.ResourceVersion = "99"
	w.quota.account.remember(q)
	if err := w.kube.CoreV1().ResourceQuotas("a").Delete(t.Context(), "ten", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for late := time.Now().Add(30 * time.Second); time.Now().Before(late); {
		w.quota.account.mu.Lock()
		n := len(w.quota.account.newest)
		w.quota.account.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("a quota that went is remembered")
}
