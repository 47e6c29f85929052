package claims_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/ipam"
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
	// ranges says that ServiceCIDRs and IPAddresses come and go too.
	ranges bool
}

func (a *actor) act(ctx context.Context) {
	services := a.kube.CoreV1().Services("default")
	name := fmt.Sprintf("svc-%d", a.rand.IntN(12))
	var err error
	var what string
	if a.ranges && a.rand.IntN(5) == 0 {
		a.actOnRanges(ctx)
		return
	}
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

// actOnRanges adds and removes ranges, one of which contains another, and takes addresses
// by hand.
func (a *actor) actOnRanges(ctx context.Context) {
	networking := a.kube.NetworkingV1()
	cidr := []string{"10.96.1.0/28", "10.96.2.0/29", "10.96.0.0/27"}[a.rand.IntN(3)]
	name := fmt.Sprintf("range-%d", a.rand.IntN(4))
	var err error
	var what string
	switch a.rand.IntN(4) {
	case 0:
		what = "add range"
		_, err = networking.ServiceCIDRs().Create(ctx, serviceCIDR(name, cidr), metav1.CreateOptions{})
	case 1:
		what = "remove range"
		err = networking.ServiceCIDRs().Delete(ctx, name, metav1.DeleteOptions{})
	case 2:
		what = "take address"
		_, err = networking.IPAddresses().Create(ctx, ipAddress(a.address()), metav1.CreateOptions{})
	case 3: // its own, or a Service's, which is refused
		what = "give address"
		err = networking.IPAddresses().Delete(ctx, a.address(), metav1.DeleteOptions{})
	}
	if err != nil {
		what += " refused"
	}
	a.done[what]++
}

// address is of one of the ranges that there may be.
func (a *actor) address() string {
	third := 0
	if a.ranges {
		third = a.rand.IntN(3)
	}
	return fmt.Sprintf("10.96.%d.%d", third, 1+a.rand.IntN(14))
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
		spec.ClusterIP = a.address()
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

// ALLOC-03, ALLOC-05: whatever clients of two servers do, and whichever answers of the
// store get lost, the claims are at every moment those of the stored objects, and every
// cluster IP is of a range that there is. A controller looks after ranges meanwhile, and
// checks the claims without a pause: it finds nothing.
func TestClaimsAreThoseOfTheObjects(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := startRig(t, smallish)
	second := apitest.StartOn(t, r.Server, smallish)
	events := r.control(t, 200*time.Millisecond)
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
				kube: []clientset.Interface{r.Kube, second.Kube}[i%2], done: map[string]int{}, ranges: true,
				rand: rand.New(rand.NewPCG(seed, uint64(i)+1)),
			}
			actors = append(actors, a)
			wg.Go(func() {
				for n := range 60 {
					a.act(ctx)
					if n%20 == 0 {
						r.check(t)
					}
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
		is := read(t, r.direct)
		t.Logf("%v; %d claims, %d ranges", total, len(is.claims), len(is.ranges))
		is.check(t)
		if t.Failed() {
			return
		}
		for _, must := range []string{"create", "delete", "replace", "update"} {
			if total[must] == 0 {
				t.Errorf("no %s succeeded: the mix is wrong", must)
			}
		}
		seed++
	}
	r.txns.set(nil)
	apitest.Eventually(t, "an IPAddress for each cluster IP", func() error { return mirrored(read(t, r.direct)) })
	select {
	case event := <-events:
		t.Errorf("the check of claims found what isn't wrong: %s", event)
	default:
	}
}

// ALLOC-04: 64 clients never get one address or port twice, and all of them get one.
func TestManyCreatorsShareNothing(t *testing.T) {
	t.Parallel()
	const clients = 64
	r := startRig(t, func(c *apiserver.Config) { c.NodePortLast = 65000 })
	second := apitest.StartOn(t, r.Server, func(c *apiserver.Config) { c.NodePortLast = 65000 })
	n := rounds(1000, 10000)
	var next atomic.Int32
	var mu sync.Mutex // guards seen
	seen := map[string]string{}
	var wg sync.WaitGroup
	for i := range clients {
		kube := []clientset.Interface{r.Kube, second.Kube}[i%2]
		wg.Go(func() {
			for {
				k := int(next.Add(1))
				if k > n || t.Failed() {
					return
				}
				name := fmt.Sprintf("svc-%d", k)
				svc, err := create(kube, nodePort(name, 0))
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				mu.Lock()
				for _, claim := range ipam.ServiceClaims(svc) {
					if other, ok := seen[claim.Key]; ok {
						t.Errorf("%s and %s both got %s", name, other, claim.Key)
					}
					seen[claim.Key] = name
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 2*n {
		t.Errorf("%d Services got %d addresses and ports", n, len(seen))
	}
	r.check(t)
}
