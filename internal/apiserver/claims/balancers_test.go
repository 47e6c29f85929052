package claims_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/pools"
)

// balancer makes a Service of type LoadBalancer, shared by a key where it isn't empty.
func (r *rig) balancer(t *testing.T, name, key string, port int32) {
	t.Helper()
	svc := clusterIP(name, "")
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	svc.Spec.Ports = []corev1.ServicePort{{Port: port}}
	if key != "" {
		svc.Annotations = map[string]string{pools.SharingAnnotation: key}
	}
	r.mustCreate(t, svc)
}

func (r *rig) patchService(name, patch string, sub ...string) error {
	_, err := r.Kube.CoreV1().Services("default").Patch(context.Background(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, sub...)
	return err
}

// give writes an address into the status, as a controller does.
func (r *rig) give(name, addr string) error {
	return r.patchService(name, fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q,"ipMode":"VIP"}]}}}`, addr), "status")
}

// LB-01, ALLOC-03: a load-balancer address is one Service's, or of those who share it with
// different ports, whoever writes it.
func TestLoadBalancerAddressesAreClaimed(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	for name, key := range map[string]string{"a": "", "b": "", "k1": "k", "k2": "k", "k3": "k", "l": "l"} {
		r.balancer(t, name, key, map[string]int32{"k2": 81, "k3": 81}[name]+80)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "status.loadBalancer.ingress") || !strings.Contains(err.Error(), "is the address of another Service") {
			t.Errorf("%s: got %v, want 422", what, err)
		}
		r.check(t)
	}
	granted := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		r.check(t)
	}
	granted("a", r.give("a", "192.0.2.1"))
	refused("b on a's", r.give("b", "192.0.2.1"))
	refused("a key's on a's", r.give("k1", "192.0.2.1"))
	granted("k1", r.give("k1", "192.0.2.2"))
	granted("k2 beside k1", r.give("k2", "192.0.2.2"))
	refused("k3 on k2's port", r.give("k3", "192.0.2.2"))
	refused("another key", r.give("l", "192.0.2.2"))
	refused("no key", r.give("b", "192.0.2.2"))
	refused("k1 takes k2's port", r.patchService("k1", `{"spec":{"ports":[{"port":161}]}}`))
	refused("k1 stops to share", r.patchService("k1", `{"metadata":{"annotations":{"metallb.io/allow-shared-ip":null}}}`))
	granted("a begins to share", r.patchService("a", `{"metadata":{"annotations":{"metallb.io/allow-shared-ip":"l"}}}`))
	refused("b on a's still", r.give("b", "192.0.2.1"))
	granted("a moves", r.give("a", "192.0.2.9"))
	granted("b takes what is free", r.give("b", "192.0.2.1"))
	granted("a type change frees", r.patchService("b", `{"spec":{"type":"ClusterIP"}}`))
	granted("which another takes", r.give("l", "192.0.2.1"))
	if err := r.Kube.CoreV1().Services("default").Delete(context.Background(), "k2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	granted("after k2", r.give("k3", "192.0.2.2"))
}

// ALLOC-04: of many writers by two servers one gets the address, or all who share it.
func TestLoadBalancerWritersAtOnce(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	second := &rig{Server: apitest.StartOn(t, r.Server), txns: r.txns, direct: r.direct}
	const n = 16
	for i := range n {
		r.balancer(t, fmt.Sprint("own", i), "", 80)
		r.balancer(t, fmt.Sprint("shared", i), "k", int32(i/2)+1)
	}
	race := func(names string) int32 {
		var won atomic.Int32
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				switch err := []*rig{r, second}[i%2].give(fmt.Sprint(names, i), "192.0.2.1"); {
				case err == nil:
					won.Add(1)
				case !apierrors.IsInvalid(err):
					t.Errorf("%s%d: %v", names, i, err)
				}
			})
		}
		wg.Wait()
		return won.Load()
	}
	if won := race("own"); won != 1 {
		t.Errorf("%d Services have the address", won)
	}
	r.check(t)
	for i := range n {
		if err := r.patchService(fmt.Sprint("own", i), `{"status":{"loadBalancer":null}}`, "status"); err != nil {
			t.Fatal(err)
		}
	}
	if won := race("shared"); won != n/2 { // two for each port
		t.Errorf("%d Services share the address, want %d", won, n/2)
	}
	r.check(t)
}
