package etcd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	clientsEach = 16
	createsEach = 12
)

// ALLOC-04, API-09: two API servers on one etcd cluster of three members, with TLS.
func TestTwoServers(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3, true)
	dirA, dirB := t.TempDir(), t.TempDir()
	a := startServer(t, dirA, append(c.flags(), "--node-name", "a", "--advertise-address", addressA)...)

	// Its keys are what makes a server one of the cluster.
	out, code := portico(t, upArgs(dirB, append(c.flags(), "--node-name", "b")...)...)
	if code != 1 || !strings.Contains(out, "portico: etcd belongs to a cluster with other keys; copy the folder pki") {
		t.Errorf("a server without the keys: %d, %s", code, out)
	}
	copyKeys(t, dirA, dirB)
	b := startServer(t, dirB, append(c.flags(), "--node-name", "b", "--advertise-address", addressB)...)

	t.Run("creates never collide", func(t *testing.T) { createThroughBoth(t, c, a, b) })
	t.Run("watches see the other's writes", func(t *testing.T) { watchTheOther(t, a, b) })
	t.Run("kubernetes leads to both", func(t *testing.T) {
		eventually(t, 20*time.Second, "both are endpoints", func() bool { return endpoints(t, a.kube) == addressA+" "+addressB })
	})
	t.Run("members die", func(t *testing.T) { killMembers(t, c, a, b) })
	t.Run("a server dies", func(t *testing.T) { killServer(t, c, a, b) })
}

// createThroughBoth lets 32 clients create at once. Half of the Services are deleted
// again on the way, so that what they held is taken by others.
func createThroughBoth(t *testing.T, c *cluster, servers ...*server) {
	var wg sync.WaitGroup
	begin := time.Now()
	for si, s := range servers {
		for client := range clientsEach {
			wg.Go(func() {
				for i := range createsEach {
					name := fmt.Sprintf("svc-%d-%d-%d", si, client, i)
					if _, err := create(t.Context(), s.kube, name); err != nil {
						t.Errorf("create %s: %v", name, err)
						return
					}
					if i%2 == 1 {
						continue
					}
					// The other server deletes it.
					other := servers[(si+1)%len(servers)]
					if err := other.kube.CoreV1().Services("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
						t.Errorf("delete %s: %v", name, err)
					}
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d creates and half as many deletes through %d servers took %v", len(servers)*clientsEach*createsEach, len(servers), time.Since(begin).Round(time.Millisecond))
	services := listServices(t, servers[0].kube)
	if want := len(servers)*clientsEach*createsEach/2 + 2; len(services) != want {
		t.Errorf("%d Services, want %d", len(services), want)
	}
	checkClaims(t, storedClaims(t, c.client(t)), services)
}

func watchTheOther(t *testing.T, a, b *server) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	list, err := b.kube.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := b.kube.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for i := range 10 {
		name := fmt.Sprint("seen-", i)
		begin := time.Now()
		if _, err := a.kube.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		event, ok := <-w.ResultChan()
		if !ok {
			t.Fatal("the watch ended")
		}
		if got, ok := event.Object.(*corev1.ConfigMap); !ok || got.Name != name {
			t.Fatalf("event %d is of %v", i, event.Object)
		}
		if i == 9 {
			t.Logf("a write through one server was seen through the other after %v", time.Since(begin).Round(100*time.Microsecond))
		}
	}
}

// endpoints are the addresses behind the Service `kubernetes`.
func endpoints(t testing.TB, kube kubernetes.Interface) string {
	t.Helper()
	slice, err := kube.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes-ipv4", metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	var out []string
	for _, e := range slice.Endpoints {
		out = append(out, e.Addresses...)
	}
	return strings.Join(out, " ")
}

// writer creates Services in a row, through the next server when one fails, and keeps
// the names of those that were acknowledged.
type writer struct {
	name   string
	mu     sync.Mutex
	acked  []string      // guarded by mu
	gap    time.Duration // guarded by mu: the longest between two acknowledgements
	last   error         // guarded by mu
	failed atomic.Int64
}

func (w *writer) run(ctx context.Context, servers ...*server) {
	at, last := 0, time.Now()
	for i := 0; ctx.Err() == nil; i++ {
		name := fmt.Sprintf("%s-%d", w.name, i)
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		_, err := create(limited, servers[at].kube, name)
		cancel()
		w.mu.Lock()
		if err == nil {
			w.acked = append(w.acked, name)
			w.gap = max(w.gap, time.Since(last))
			last = time.Now()
		} else {
			w.last = err
			w.failed.Add(1)
			at = (at + 1) % len(servers)
		}
		w.mu.Unlock()
		time.Sleep(10 * time.Millisecond) // it isn't about load
	}
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// check sees that all that was acknowledged is there.
func (w *writer) check(t *testing.T, kube kubernetes.Interface) {
	t.Helper()
	have := map[string]bool{}
	for _, svc := range listServices(t, kube) {
		have[svc.Name] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range w.acked {
		if !have[name] {
			t.Errorf("%s was acknowledged and is lost", name)
		}
	}
	t.Logf("%s: %d acknowledged, all there; %d failed, the last: %v; the longest pause %v", w.name, len(w.acked), w.failed.Load(), w.last, w.gap.Round(time.Millisecond))
}

// during runs a writer while f does its worst.
func during(t *testing.T, name string, f func(w *writer), servers ...*server) *writer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{name: name}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { w.run(ctx, servers...) })
	eventually(t, 20*time.Second, "writes begin", func() bool { return w.count() > 5 })
	f(w)
	return w
}

// goesOn waits for ten more acknowledgements.
func (w *writer) goesOn(t *testing.T) time.Duration {
	t.Helper()
	from := w.count()
	return eventually(t, 40*time.Second, "writes go on", func() bool { return w.count() >= from+10 })
}

func killMembers(t *testing.T, c *cluster, a, b *server) {
	w := during(t, "one", func(w *writer) {
		c.members[0].kill()
		w.goesOn(t)
	}, a, b)
	w.check(t, a.kube)

	c.members[1].kill()
	begin := time.Now()
	_, err := create(t.Context(), a.kube, "never")
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Code < 500 {
		t.Errorf("without a majority a write gave %v", err)
	}
	t.Logf("without a majority a write fails after %v: %v", time.Since(begin).Round(time.Millisecond), err)
	if time.Since(begin) > 30*time.Second {
		t.Error("that is long after a client would have given up")
	}
	if _, err := a.get(t.Context(), "/api/v1/namespaces/default/services?resourceVersion=0"); err != nil {
		t.Errorf("a list that the watch cache could answer: %v", err)
	}
	if _, err := a.get(t.Context(), "/livez"); err != nil {
		t.Errorf("/livez: %v", err)
	}
	body, err := a.get(t.Context(), "/readyz")
	if err == nil || !strings.Contains(body, "[-]etcd failed") {
		t.Errorf("/readyz: %v %s", err, body)
	}

	c.restart(0)
	c.restart(1)
	took := eventually(t, 40*time.Second, "writes go on by themselves", func() bool {
		_, err := create(t.Context(), a.kube, "again")
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	t.Logf("writes went on %v after the members' start", took.Round(time.Millisecond))
	eventually(t, 20*time.Second, "/readyz is ok", func() bool { _, err := b.get(t.Context(), "/readyz"); return err == nil })
	during(t, "two", func(w *writer) { w.goesOn(t) }, b, a).check(t, b.kube)
	w.check(t, b.kube)
	checkClaims(t, storedClaims(t, c.client(t)), listServices(t, b.kube))
}

// killServer kills the server whose controllers lead.
func killServer(t *testing.T, c *cluster, a, b *server) {
	leader := func(kube kubernetes.Interface) string {
		lease, err := kube.CoordinationV1().Leases("kube-system").Get(t.Context(), "portico-controllers", metav1.GetOptions{})
		if err != nil || lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}
	eventually(t, 30*time.Second, "somebody leads", func() bool { return leader(a.kube) != "" })
	dead, left, own, address := a, b, "b", addressB
	if leader(a.kube) == "b" {
		dead, left, own, address = b, a, "a", addressA
	}
	w := during(t, "server", func(w *writer) {
		dead.kill()
		w.goesOn(t)
	}, dead, left)
	w.check(t, left.kube)
	took := eventually(t, 40*time.Second, "the controllers move over", func() bool { return leader(left.kube) == own })
	t.Logf("the controllers moved over %v later", took.Round(time.Millisecond))
	checkClaims(t, storedClaims(t, c.client(t)), listServices(t, left.kube))
	if os.Getenv("PORTICO_LONG") == "" {
		return // a lease holds for 40 s
	}
	took = eventually(t, 80*time.Second, "kubernetes loses the dead server", func() bool { return endpoints(t, left.kube) == address })
	t.Logf("kubernetes lost the dead server %v after that", took.Round(time.Millisecond))
}
