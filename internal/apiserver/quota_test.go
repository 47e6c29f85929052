package apiserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/controllers/quota"
)

// runQuota runs the controller against the server until the test ends.
func runQuota(t testing.TB, s *apitest.Server) {
	t.Helper()
	meta, err := metadata.NewForConfig(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- quota.Run(ctx, quota.Deps{
			Client: s.Kube, Metadata: meta, Discovery: s.Kube.Discovery(),
			Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// limit makes a quota and waits until its use is counted.
func limit(t testing.TB, s *apitest.Server, name string, hard map[corev1.ResourceName]string) {
	t.Helper()
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{}}}
	for name, n := range hard {
		q.Spec.Hard[name] = resource.MustParse(n)
	}
	if _, err := s.Kube.CoreV1().ResourceQuotas("default").Create(context.Background(), q, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the quota's status", func() error {
		q, err := s.Kube.CoreV1().ResourceQuotas("default").Get(context.Background(), name, metav1.GetOptions{})
		if err == nil && len(q.Status.Used) != len(hard) {
			err = fmt.Errorf("used: %v", q.Status.Used)
		}
		return err
	})
	// Admission sees it by a watch of its own.
	apitest.Eventually(t, "the quota in force", func() error {
		if a := ask(t, s, "POST", "/api/v1/namespaces/default/services?dryRun=All", manyPorts); a.code != 403 {
			return fmt.Errorf("%d: %s", a.code, a.body)
		}
		return nil
	})
}

// manyPorts is a Service that each quota here refuses.
var manyPorts = func() string {
	var ports []string
	for i := range 60 {
		ports = append(ports, fmt.Sprintf(`{"name":"p%d","port":%d}`, i, 1000+i))
	}
	return `{"metadata":{"name":"many-ports"},"spec":{"type":"LoadBalancer","ports":[` + strings.Join(ports, ",") + `]}}`
}()

func used(t testing.TB, s *apitest.Server, quota string, name corev1.ResourceName) int64 {
	t.Helper()
	q, err := s.Kube.CoreV1().ResourceQuotas("default").Get(context.Background(), quota, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := q.Status.Used[name]
	return n.Value()
}

func wantUsed(t testing.TB, s *apitest.Server, quota string, want map[corev1.ResourceName]int64) {
	t.Helper()
	apitest.Eventually(t, "the use of "+quota, func() error {
		var errs []error
		for name, n := range want {
			if got := used(t, s, quota, name); got != n {
				errs = append(errs, fmt.Errorf("%s: %d, want %d", name, got, n))
			}
		}
		return errors.Join(errs...)
	})
}

// API-13: Services, their node ports and load balancers are charged as they are made and
// changed, refused beyond the quota in upstream's words, and free again when they go.
func TestQuotaOfServices(t *testing.T) {
	t.Parallel()
	s := start(t)
	runQuota(t, s)
	limit(t, s, "few", map[corev1.ResourceName]string{"services": "3", "services.nodeports": "2", "services.loadbalancers": "1", "count/configmaps": "1"})
	const services = "/api/v1/namespaces/default/services"
	service := func(name, kind, ports string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"type":%q,"ports":[%s]}}`, name, kind, ports)
	}
	const one, two = `{"name":"a","port":1}`, `{"name":"a","port":1},{"name":"b","port":2}`
	ask(t, s, "POST", services, service("a", "ClusterIP", two)).want(t, 201)
	// A change of type is charged.
	askAs(t, s, "PATCH", services+"/a", "application/merge-patch+json", `{"spec":{"type":"NodePort"}}`).want(t, 200)
	wantUsed(t, s, "few", map[corev1.ResourceName]int64{"services": 1, "services.nodeports": 2})
	ask(t, s, "POST", services, service("b", "NodePort", one)).
		want(t, 403, `services "b" is forbidden: exceeded quota: few, requested: services.nodeports=1, used: services.nodeports=2, limited: services.nodeports=2`)
	ask(t, s, "POST", services, service("b", "ClusterIP", one)).want(t, 201)
	askAs(t, s, "PATCH", services+"/b", "application/merge-patch+json", `{"spec":{"type":"NodePort"}}`).
		want(t, 403, "exceeded quota: few, requested: services.nodeports=1")
	askAs(t, s, "PATCH", services+"/b", "application/merge-patch+json", `{"spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false}}`).want(t, 200)
	ask(t, s, "POST", services, `{"metadata":{"name":"c"},"spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,"ports":[`+one+`]}}`).
		want(t, 403, "exceeded quota: few, requested: services.loadbalancers=1, used: services.loadbalancers=1, limited: services.loadbalancers=1")
	ask(t, s, "POST", services+"?dryRun=All", service("c", "ClusterIP", one)).want(t, 201)
	wantUsed(t, s, "few", map[corev1.ResourceName]int64{"services": 2, "services.nodeports": 2, "services.loadbalancers": 1})
	// What isn't needed any more is free at once.
	askAs(t, s, "PATCH", services+"/a", "application/merge-patch+json", `{"spec":{"type":"ClusterIP"}}`).want(t, 200)
	ask(t, s, "DELETE", services+"/b", "").want(t, 200)
	wantUsed(t, s, "few", map[corev1.ResourceName]int64{"services": 1, "services.nodeports": 0, "services.loadbalancers": 0})
	ask(t, s, "POST", configMaps, `{"metadata":{"name":"x"}}`).want(t, 201)
	ask(t, s, "POST", configMaps, `{"metadata":{"name":"y"}}`).want(t, 403, "exceeded quota: few, requested: count/configmaps=1, used: count/configmaps=1, limited: count/configmaps=1")
	ask(t, s, "POST", "/api/v1/namespaces/default/resourcequotas", `{"metadata":{"name":"bad"},"spec":{"hard":{"services":"1.5","gold":"1"}}}`).
		want(t, 422, "spec.hard[services]", "must be an integer", "spec.hard[gold]", "must be a standard resource for quota")
	ask(t, s, "POST", "/api/v1/namespaces/default/resourcequotas?dryRun=All", `{"metadata":{"name":"cpu"},"spec":{"hard":{"requests.cpu":"1"}}}`).
		want(t, 201, "nothing limits it")
}

// API-13: whatever many clients do at once, through two servers, there is never more
// than the quota allows, and in the end what is used is what is there.
func TestQuotaHoldsAgainstManyClients(t *testing.T) {
	t.Parallel()
	const clients, hard, rounds = 32, 10, 4
	s := start(t)
	other := apitest.StartOn(t, s)
	runQuota(t, s)
	limit(t, s, "ten", map[corev1.ResourceName]string{"services": "10", "services.nodeports": "50"})
	apitest.Eventually(t, "the quota at the other server", func() error {
		if a := ask(t, other, "POST", "/api/v1/namespaces/default/services?dryRun=All", manyPorts); a.code != 403 {
			return fmt.Errorf("%d: %s", a.code, a.body)
		}
		return nil
	})
	var there, most, made, refused atomic.Int64
	var wg sync.WaitGroup
	// At first all want one: exactly as many get one as there may be.
	for i := range clients {
		kube := []kubernetes.Interface{s.Kube, other.Kube}[i%2]
		wg.Go(func() {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("first-%d", i)}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
			if _, err := kube.CoreV1().Services("default").Create(context.Background(), svc, metav1.CreateOptions{}); err == nil {
				made.Add(1)
			} else if !apierrors.IsForbidden(err) {
				t.Errorf("create %s: %v", svc.Name, err)
			}
		})
	}
	wg.Wait()
	if n := made.Swap(0); n != hard {
		t.Errorf("%d of %d clients got a Service of a quota of %d", n, clients, hard)
	}
	ask(t, s, "DELETE", "/api/v1/namespaces/default/services", "").want(t, 200)
	wantUsed(t, s, "ten", map[corev1.ResourceName]int64{"services": 0})
	for i := range clients {
		kube := []kubernetes.Interface{s.Kube, other.Kube}[i%2]
		wg.Go(func() {
			for round := range rounds {
				name := fmt.Sprintf("s%d-%d", i, round)
				svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
				_, err := kube.CoreV1().Services("default").Create(context.Background(), svc, metav1.CreateOptions{})
				switch {
				case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "exceeded quota: ten"):
					refused.Add(1)
					continue
				case err != nil:
					t.Errorf("create %s: %v", name, err)
					continue
				}
				made.Add(1)
				if n := there.Add(1); n > most.Load() {
					most.Store(n)
				}
				if round == rounds-1 {
					continue
				}
				there.Add(-1) // before the deletion: never more than there are
				if err := kube.CoreV1().Services("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
					t.Errorf("delete %s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	list, err := s.Kube.CoreV1().Services("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d made, %d refused, at most %d at once, %d left", made.Load(), refused.Load(), most.Load(), len(list.Items))
	if most.Load() > hard || len(list.Items) > hard || refused.Load() == 0 {
		t.Errorf("%d Services at once, %d left, of a quota of %d; %d refused", most.Load(), len(list.Items), hard, refused.Load())
	}
	left := int64(len(list.Items))
	wantUsed(t, s, "ten", map[corev1.ResourceName]int64{"services": left, "services.nodeports": left})
}

// API-13, ALLOC-03: a write that the store refuses after it was charged gives its places
// back before it is answered.
func TestQuotaIsGivenBack(t *testing.T) {
	t.Parallel()
	const clients = 16
	s := start(t)
	runQuota(t, s)
	limit(t, s, "some", map[corev1.ResourceName]string{"services": "20", "services.nodeports": "20"})
	const services = "/api/v1/namespaces/default/services"
	nodePort := func(name string) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"type":"NodePort","ports":[{"port":1,"nodePort":30100}]}}`, name)
	}
	want := func(after string, n, ports int64) {
		t.Helper()
		if gotN, gotPorts := used(t, s, "some", "services"), used(t, s, "some", "services.nodeports"); gotN != n || gotPorts != ports {
			t.Errorf("after %s: %d services and %d node ports are used, want %d and %d", after, gotN, gotPorts, n, ports)
		}
	}
	ask(t, s, "POST", services, nodePort("a")).want(t, 201)
	want("a create", 1, 1)
	ask(t, s, "POST", services, nodePort("a")).want(t, 409)
	want("a name that is taken", 1, 1)
	ask(t, s, "POST", services, nodePort("b")).want(t, 422, "provided port is already allocated")
	want("a node port that is taken", 1, 1)
	ask(t, s, "POST", services, `{"metadata":{"name":"b"},"spec":{"ports":[{"port":1}]}}`).want(t, 201)
	askAs(t, s, "PATCH", services+"/b", "application/merge-patch+json", `{"spec":{"type":"NodePort","ports":[{"port":1,"nodePort":30100}]}}`).
		want(t, 422, "provided port is already allocated")
	want("a change that is refused", 2, 1)
	ask(t, s, "POST", services+"?dryRun=All", nodePort("a")).want(t, 409)
	want("a dry run", 2, 1)

	var made atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
			if _, err := s.Kube.CoreV1().Services("default").Create(context.Background(), svc, metav1.CreateOptions{}); err == nil {
				made.Add(1)
			} else if !apierrors.IsAlreadyExists(err) && !apierrors.IsForbidden(err) {
				t.Errorf("create c: %v", err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d clients made c", made.Load())
	}
	want("many that wanted one name", 3, 1)
}
