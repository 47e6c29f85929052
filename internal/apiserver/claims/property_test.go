package claims_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver/apitest"
)

// rounds is n, or more of them in the long tests.
func rounds(n, long int) int {
	if os.Getenv("PORTICO_LONG") != "" {
		return long
	}
	return n
}

// actor does random things to Services of few names in tight ranges.
type actor struct {
	kube clientset.Interface
	rand *rand.Rand
	done map[string]int // outcomes, to see that the mix is real
}

func (a *actor) act(ctx context.Context) {
	services := a.kube.CoreV1().Services("default")
	name := fmt.Sprintf("svc-%d", a.rand.IntN(12))
	var err error
	var what string
	switch a.rand.IntN(6) {
	case 0, 1:
		what = "create"
		_, err = create(a.kube, a.service(name))
	case 2:
		what = "delete"
		err = services.Delete(ctx, name, metav1.DeleteOptions{})
	case 3:
		what = "replace"
		_, err = services.Update(ctx, a.service(name), metav1.UpdateOptions{})
	default:
		what = "update"
		var svc *corev1.Service
		if svc, err = services.Get(ctx, name, metav1.GetOptions{}); err == nil {
			a.change(svc)
			_, err = services.Update(ctx, svc, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		what += " refused"
	}
	a.done[what]++
}

func (a *actor) service(name string) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}}
	a.change(svc)
	return svc
}

// change gives the Service another type and other ports, some of them chosen.
func (a *actor) change(svc *corev1.Service) {
	spec := &svc.Spec
	types := []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName}
	spec.Type = types[a.rand.IntN(len(types))]
	spec.ExternalName = ""
	if spec.Type == corev1.ServiceTypeExternalName {
		spec.ExternalName = "example.org"
	}
	if spec.ClusterIP == "" && a.rand.IntN(4) == 0 {
		spec.ClusterIP = fmt.Sprintf("10.96.0.%d", 1+a.rand.IntN(14))
	}
	spec.Ports = nil
	for i := range 1 + a.rand.IntN(3) {
		port := corev1.ServicePort{Name: fmt.Sprintf("p%d", i), Port: int32(80 + i), Protocol: corev1.ProtocolTCP}
		if spec.Type != corev1.ServiceTypeClusterIP && a.rand.IntN(3) == 0 {
			port.NodePort = int32(30000 + a.rand.IntN(20))
		}
		spec.Ports = append(spec.Ports, port)
	}
	spec.ExternalTrafficPolicy = ""
	if spec.Type == corev1.ServiceTypeLoadBalancer && a.rand.IntN(2) == 0 {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal // a health check node port
	}
}

// ALLOC-03: whatever clients of two servers do, and whichever answers of the store get
// lost, the claims are at the end those of the Services that are stored.
func TestClaimsAreThoseOfTheServices(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := startRig(t, smallish)
	second := apitest.StartOn(t, r.Server, smallish)
	var mu sync.Mutex // guards faults
	faults := rand.New(rand.NewPCG(seed, 0))
	r.txns.set(func(writes []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
		mu.Lock()
		n := faults.IntN(20)
		mu.Unlock()
		if n == 0 {
			return nil, errUnavailable
		}
		resp, err := commit()
		if n == 1 {
			return nil, errUnavailable
		}
		return resp, err
	})
	ctx := context.Background()
	for range rounds(3, 100) {
		var wg sync.WaitGroup
		var actors []*actor
		for i := range 6 {
			a := &actor{
				kube: []clientset.Interface{r.Kube, second.Kube}[i%2], done: map[string]int{},
				rand: rand.New(rand.NewPCG(seed, uint64(i)+1)),
			}
			actors = append(actors, a)
			wg.Go(func() {
				for range 60 {
					a.act(ctx)
				}
			})
		}
		wg.Wait()
		total := map[string]int{}
		for _, a := range actors {
			for what, n := range a.done {
				total[what] += n
			}
		}
		t.Logf("%v; %d claims", total, len(r.stored(t)))
		r.check(t)
		for _, must := range []string{"create", "delete", "replace", "update"} {
			if total[must] == 0 {
				t.Errorf("no %s succeeded: the mix is wrong", must)
			}
		}
	}
}
