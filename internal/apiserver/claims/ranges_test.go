package claims_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientset "k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver/apitest"
)

func (r *rig) addRange(t testing.TB, name string, cidrs ...string) {
	t.Helper()
	if _, err := r.Kube.NetworkingV1().ServiceCIDRs().Create(context.Background(), serviceCIDR(name, cidrs...), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// fill takes what the small default range has.
func (r *rig) fill(t testing.TB) {
	t.Helper()
	for i := range 6 {
		r.mustCreate(t, clusterIP(fmt.Sprintf("full-%d", i), ""))
	}
	if _, err := create(r.Kube, clusterIP("over", "")); err == nil || !strings.Contains(err.Error(), "range is full: 10.96.0.0/29") {
		t.Fatalf("a full range: %v", err)
	}
}

// ALLOC-05, ALLOC-06: a range that is added helps at once, on the server that was asked
// and soon on others, in bands of its own.
func TestAddedRangeExtendsThePool(t *testing.T) {
	t.Parallel()
	r := startRig(t, small)
	second := apitest.StartOn(t, r.Server, small)
	r.fill(t)
	_, err := create(r.Kube, clusterIP("chosen", "10.223.4.10"))
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "the provided IP (10.223.4.10) is not in the valid range. The range of valid IPs is 10.96.0.0/29") {
		t.Errorf("outside: %v", err)
	}
	r.addRange(t, "more", "10.223.4.0/24")
	r.mustCreate(t, clusterIP("chosen", "10.223.4.10"))
	band := netip.MustParseAddr("10.223.4.16") // the last that is left for manual choice
	for i, kube := range []clientset.Interface{r.Kube, second.Kube} {
		var svc *corev1.Service
		apitest.Eventually(t, "an address of the added range", func() error {
			svc, err = create(kube, clusterIP(fmt.Sprintf("dynamic-%d", i), ""))
			return err
		})
		if addr := netip.MustParseAddr(svc.Spec.ClusterIP); !band.Less(addr) || !netip.MustParsePrefix("10.223.4.0/24").Contains(addr) {
			t.Errorf("server %d gave %s", i, addr)
		}
	}
	if _, err := create(second.Kube, clusterIP("thief", "10.223.4.10")); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("a taken address of the added range: %v", err)
	}
	r.check(t)
}

// ALLOC-05: from the moment on at which a range's deletion is stored no server gives an
// address of it, even one that has chosen already.
func TestEndingRangeGivesNothing(t *testing.T) {
	t.Parallel()
	r := startRig(t, small)
	r.fill(t)
	ctx := context.Background()
	endBefore := func(name, ending string) {
		r.txns.set(func(writes []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
			if writesTo(writes, name) {
				r.txns.set(nil)
				if err := r.Kube.NetworkingV1().ServiceCIDRs().Delete(ctx, ending, metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			}
			return commit()
		})
	}
	r.addRange(t, "one", "10.223.1.0/24")
	endBefore("late", "one")
	if _, err := create(r.Kube, clusterIP("late", "10.223.1.7")); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "is not in the valid range") {
		t.Errorf("a chosen address: %v", err)
	}
	r.addRange(t, "two", "10.223.2.0/24")
	endBefore("late", "two")
	if _, err := create(r.Kube, clusterIP("late", "")); err == nil || !strings.Contains(err.Error(), "range is full: 10.96.0.0/29") {
		t.Errorf("any address: %v", err)
	}
	r.addRange(t, "three", "10.223.3.0/24")
	r.addRange(t, "four", "10.223.4.0/24")
	endBefore("late", "four") // "three" comes after it
	svc := r.mustCreate(t, clusterIP("late", ""))
	if !netip.MustParsePrefix("10.223.3.0/24").Contains(netip.MustParseAddr(svc.Spec.ClusterIP)) {
		t.Errorf("got %s", svc.Spec.ClusterIP)
	}
	// What is used stays its owner's, whatever becomes of the range.
	if err := r.Kube.NetworkingV1().ServiceCIDRs().Delete(ctx, "three", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	svc.Spec.Selector = map[string]string{"a": "b"}
	svc.Spec.Type = corev1.ServiceTypeNodePort
	if _, err := r.Kube.CoreV1().Services("default").Update(ctx, svc, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	r.check(t)
}

// ALLOC-05: an address has one holder, be it a Service or an IPAddress that somebody
// made, and those that mirror Services' addresses can't be made to lie.
func TestIPAddressesHaveClaims(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	r.control(t, 0)
	ctx := context.Background()
	ips := r.Kube.NetworkingV1().IPAddresses()
	svc := r.mustCreate(t, clusterIP("web", "10.96.0.20"))
	_, err := ips.Create(ctx, ipAddress("10.96.0.20"), metav1.CreateOptions{})
	if err == nil || !apierrors.IsInvalid(err) && !apierrors.IsAlreadyExists(err) { // the mirror may be there first
		t.Errorf("a Service's address: %v", err)
	}
	if _, err := ips.Create(ctx, ipAddress("10.96.0.30"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := create(r.Kube, clusterIP("thief", "10.96.0.30")); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "failed to allocate IP 10.96.0.30: provided IP is already allocated") {
		t.Errorf("an address that an IPAddress has: %v", err)
	}
	if err := ips.Delete(ctx, "10.96.0.30", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.mustCreate(t, clusterIP("next", "10.96.0.30"))

	apitest.Eventually(t, "an IPAddress for each cluster IP", func() error { return mirrored(read(t, r.direct)) })
	const words = "it shows the address of Service default/web, which has it still; delete that Service or give it another address"
	if err := ips.Delete(ctx, "10.96.0.20", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), words) {
		t.Errorf("deleting a mirror: %v", err)
	}
	_, err = ips.Patch(ctx, "10.96.0.20", types.MergePatchType, []byte(`{"metadata":{"labels":{"ipaddress.kubernetes.io/managed-by":"me"}}}`), metav1.PatchOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), words) {
		t.Errorf("changing a mirror: %v", err)
	}
	if _, err := ips.Patch(ctx, "10.96.0.20", types.MergePatchType, []byte(`{"metadata":{"annotations":{"note":"mine"}}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a note on a mirror: %v", err)
	}
	r.check(t)

	// It goes with the claim: to another Service, and away.
	if err := r.Kube.CoreV1().Services("default").Delete(ctx, svc.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.mustCreate(t, clusterIP("other", "10.96.0.20"))
	apitest.Eventually(t, "the IPAddress of the next Service", func() error { return mirrored(read(t, r.direct)) })
	if err := r.Kube.CoreV1().Services("default").Delete(ctx, "other", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "no IPAddress without a Service", func() error { return mirrored(read(t, r.direct)) })
	r.check(t)
}
