package claims_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientset "k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/claims"
)

// ALLOC-03: a choice that is taken is refused, names the field, and leaves nothing.
func TestTakenChoiceIsRefused(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	r.mustCreate(t, clusterIP("first", "10.96.0.20"))
	r.mustCreate(t, nodePort("second", 30000))
	for name, c := range map[string]struct {
		svc  *corev1.Service
		want string
	}{
		"address":   {clusterIP("loser", "10.96.0.20"), "spec.clusterIPs: Invalid value"},
		"node port": {nodePort("loser", 30000), "spec.ports[0].nodePort: Invalid value: 30000: provided port is already allocated"},
	} {
		before := len(r.stored(t))
		for _, dryRun := range [][]string{nil, {metav1.DryRunAll}} {
			_, err := r.Kube.CoreV1().Services("default").Create(context.Background(), c.svc, metav1.CreateOptions{DryRun: dryRun})
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s, dry run %v: got %v, want 422 with %q", name, dryRun, err, c.want)
			}
		}
		if _, err := r.Kube.CoreV1().Services("default").Get(context.Background(), "loser", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: an object was left: %v", name, err)
		}
		if after := len(r.stored(t)); after != before {
			t.Errorf("%s: %d claims became %d", name, before, after)
		}
	}
	// A dry run keeps nothing, but shows an address.
	dry, err := r.Kube.CoreV1().Services("default").Create(context.Background(), nodePort("dry", 0), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || dry.Spec.ClusterIP == "" || dry.Spec.Ports[0].NodePort == 0 {
		t.Errorf("dry run: %v, %+v", err, dry.Spec)
	}
	r.check(t)
}

// ALLOC-04, ALLOC-06: of 64 creators by two servers for six addresses exactly six win,
// the others get a clear error, and a freed address can be had at once.
func TestConcurrentCreatorsShareNothing(t *testing.T) {
	t.Parallel()
	r := startRig(t, small)
	second := apitest.StartOn(t, r.Server, small)
	var won, full atomic.Int32
	var wg sync.WaitGroup
	for i := range 64 {
		kube := []clientset.Interface{r.Kube, second.Kube}[i%2]
		wg.Go(func() {
			_, err := create(kube, clusterIP(fmt.Sprintf("svc-%d", i), ""))
			switch {
			case err == nil:
				won.Add(1)
			case strings.Contains(err.Error(), "failed to allocate a serviceIP: range is full: 10.96.0.0/29"):
				full.Add(1)
			default:
				t.Errorf("unexpected: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 6 || full.Load() != 58 {
		t.Errorf("%d won and %d found the range full, want 6 and 58", won.Load(), full.Load())
	}
	r.check(t)
	list, err := r.Kube.CoreV1().Services("default").List(context.Background(), metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		t.Fatal(err)
	}
	for i := range 10 { // the freed address is the only one
		if err := r.Kube.CoreV1().Services("default").Delete(context.Background(), list.Items[0].Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := create(r.Kube, clusterIP(list.Items[0].Name, "")); err != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}

// ALLOC-06: that a range is full is believed only after the claims were read anew.
func TestLeakedHintsAreNoExhaustion(t *testing.T) {
	t.Parallel()
	r := startRig(t, small)
	// Six writes of unknown result that were never done leave six marks.
	r.txns.set(func(writes []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
		if writesTo(writes, "lost") {
			return nil, errUnavailable
		}
		return commit()
	})
	for range 6 {
		if _, err := create(r.Kube, clusterIP("lost", "")); !apierrors.IsTimeout(err) {
			t.Fatalf("got %v, want a timeout", err)
		}
	}
	apitest.Eventually(t, "a Service in a range whose hints are full", func() error {
		_, err := create(r.Kube, clusterIP("found", ""))
		return err
	})
}

// ALLOC-03: an address that our hints thought free and somebody else holds is replaced
// by another, on create and on update.
func TestConflictOfAPickPicksAgain(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	steal := func(name string) (stolen *[]string) {
		stolen = &[]string{}
		r.txns.set(func(writes []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
			if writesTo(writes, name) && len(*stolen) < 3 {
				for _, op := range writes {
					if key := string(op.KeyBytes()); strings.HasPrefix(key, claims.Root) {
						if _, err := r.direct.KV.Put(context.Background(), key, "somebody else"); err != nil {
							t.Error(err)
						}
						*stolen = append(*stolen, strings.TrimPrefix(key, claims.Root))
						break
					}
				}
			}
			return commit()
		})
		return stolen
	}
	stolen := steal("dynamic")
	svc := r.mustCreate(t, nodePort("dynamic", 0))
	if len(*stolen) != 3 {
		t.Errorf("stole %v, want three", *stolen)
	}
	for key, owner := range r.stored(t) {
		if owner == string(svc.UID) != (key == "ip/"+svc.Spec.ClusterIP || key == fmt.Sprintf("nodeport/%d", svc.Spec.Ports[0].NodePort)) {
			t.Errorf("claim %s is %s's; the Service is %+v", key, owner, svc.Spec)
		}
	}
	r.txns.set(nil)
	plain := r.mustCreate(t, clusterIP("later", ""))
	stolen = steal("later")
	plain.Spec.Type = corev1.ServiceTypeNodePort
	plain, err := r.Kube.CoreV1().Services("default").Update(context.Background(), plain, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(*stolen) != 3 || r.stored(t)[fmt.Sprintf("nodeport/%d", plain.Spec.Ports[0].NodePort)] != string(plain.UID) {
		t.Errorf("stole %v, got %+v", *stolen, plain.Spec.Ports)
	}
}

// ALLOC-03: an update that begins from a stale object changes the claims of the object
// as it is, not as it was.
func TestStaleUpdateSwapsItsClaim(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	svc := r.mustCreate(t, nodePort("web", 30001))
	moved := false
	r.txns.set(func(writes []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
		if !moved && writesTo(writes, "web") {
			moved = true // another writer comes first, with a port of its own
			r.txns.set(nil)
			patch := `{"spec":{"ports":[{"port":80,"nodePort":30002}]}}`
			if _, err := r.Kube.CoreV1().Services("default").Patch(context.Background(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
				t.Error(err)
			}
		}
		return commit()
	})
	svc.ResourceVersion = "" // unconditional: tried again on the newer object
	svc.Spec.Ports[0].NodePort = 30003
	svc, err := r.Kube.CoreV1().Services("default").Update(context.Background(), svc, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !moved || svc.Spec.Ports[0].NodePort != 30003 {
		t.Errorf("moved %v, got %+v", moved, svc.Spec.Ports)
	}
	r.check(t)
	r.mustCreate(t, nodePort("one", 30001))
	r.mustCreate(t, nodePort("two", 30002))
}

// ALLOC-04: however a Service goes, its claims go with it.
func TestEveryWayOfDeletingFrees(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	ctx := context.Background()
	services := r.Kube.CoreV1().Services("default")
	gone := func(t *testing.T) {
		t.Helper()
		r.check(t)
		r.mustCreate(t, nodePort("again", 30005))
		if err := services.Delete(ctx, "again", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("delete", func(t *testing.T) {
		r.mustCreate(t, nodePort("web", 30005))
		if err := services.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		gone(t)
	})
	t.Run("deletecollection", func(t *testing.T) {
		svc := nodePort("web", 30005)
		svc.Labels = map[string]string{"all": "go"}
		r.mustCreate(t, svc)
		if err := r.Kube.CoreV1().RESTClient().Delete().Namespace("default").Resource("services").Param("labelSelector", "all=go").Do(ctx).Error(); err != nil {
			t.Fatal(err)
		}
		gone(t)
	})
	t.Run("the last finalizer", func(t *testing.T) {
		svc := nodePort("web", 30005)
		svc.Finalizers = []string{"example.dev/wait"}
		r.mustCreate(t, svc)
		if err := services.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := create(r.Kube, nodePort("thief", 30005)); !apierrors.IsInvalid(err) {
			t.Errorf("while the finalizer waits: got %v, want 422", err)
		}
		if _, err := services.Patch(ctx, "web", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		gone(t)
	})
	t.Run("the last finalizer by the status", func(t *testing.T) {
		svc := nodePort("web", 30005)
		svc.Finalizers = []string{"example.dev/wait"}
		r.mustCreate(t, svc)
		if err := services.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := services.Patch(ctx, "web", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		gone(t)
	})
	t.Run("type change", func(t *testing.T) {
		r.mustCreate(t, nodePort("web", 30005))
		if _, err := services.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"type":"ExternalName","externalName":"example.org"}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		gone(t)
	})
}

// API-09: server-side apply creates by an update from nothing, and generateName tries
// other names; both get their claims.
func TestUnusualCreates(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	ctx := context.Background()
	services := r.Kube.CoreV1().Services("default")
	apply := func(manifest string) (*corev1.Service, error) {
		force := false
		return services.Patch(ctx, "applied", types.ApplyPatchType, []byte(manifest), metav1.PatchOptions{FieldManager: "test", Force: &force})
	}
	svc, err := apply(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"applied"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30007}]}}`)
	if err != nil || svc.Spec.ClusterIP == "" {
		t.Fatal(err, svc)
	}
	_, err = services.Patch(ctx, "loser", types.ApplyPatchType,
		[]byte(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"loser"},"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30007}]}}`), metav1.PatchOptions{FieldManager: "test"})
	if !apierrors.IsInvalid(err) {
		t.Errorf("applying a taken port: got %v, want 422", err)
	}
	for range 5 {
		named := clusterIP("", "")
		named.GenerateName = "gen-"
		r.mustCreate(t, named)
	}
	taken := nodePort("", 30007)
	taken.GenerateName = "gen-"
	if _, err := create(r.Kube, taken); !apierrors.IsInvalid(err) {
		t.Errorf("generateName with a taken port: got %v, want 422", err)
	}
	// ALLOC-02: one number for TCP and UDP is one claim: etcd takes a key once.
	both := nodePort("dns", 0)
	both.Spec.Ports = []corev1.ServicePort{{Name: "t", Port: 53, Protocol: corev1.ProtocolTCP}, {Name: "u", Port: 53, Protocol: corev1.ProtocolUDP}}
	if svc := r.mustCreate(t, both); svc.Spec.Ports[0].NodePort != svc.Spec.Ports[1].NodePort {
		t.Errorf("got %+v", svc.Spec.Ports)
	}
	r.check(t)
}

// An update that changes nothing writes nothing.
func TestUnchangedUpdateWritesNothing(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	svc := r.mustCreate(t, nodePort("web", 0))
	var writes atomic.Int32
	r.txns.set(func(ops []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
		if writesTo(ops, "web") {
			writes.Add(1)
		}
		return commit()
	})
	same, err := r.Kube.CoreV1().Services("default").Update(context.Background(), svc, metav1.UpdateOptions{})
	if err != nil || same.ResourceVersion != svc.ResourceVersion || writes.Load() != 0 {
		t.Errorf("got %v, revision %s after %s, %d transactions", err, same.ResourceVersion, svc.ResourceVersion, writes.Load())
	}
	// The same manifest again, without what was assigned.
	again := nodePort("web", 0)
	if same, err = r.Kube.CoreV1().Services("default").Update(context.Background(), again, metav1.UpdateOptions{}); err != nil || same.Spec.ClusterIP != svc.Spec.ClusterIP {
		t.Errorf("got %v, %+v", err, same)
	}
	r.check(t)
}

// A claim that vanished, or that the object has already though it needn't, doesn't
// block its writes.
func TestCorruptClaimsDontBlock(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	ctx := context.Background()
	services := r.Kube.CoreV1().Services("default")
	svc := r.mustCreate(t, nodePort("web", 30008))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := r.direct.KV.Delete(ctx, claims.Root+"nodeport/30008")
	must(err)
	_, err = r.direct.KV.Put(ctx, claims.Root+"nodeport/30009", string(svc.UID))
	must(err)
	svc.Spec.Ports[0].NodePort = 30009 // gives up what vanished, takes what it has
	svc, err = services.Update(ctx, svc, metav1.UpdateOptions{})
	must(err)
	r.check(t)
	_, err = r.direct.KV.Delete(ctx, claims.Root+"ip/"+svc.Spec.ClusterIP)
	must(err)
	must(services.Delete(ctx, "web", metav1.DeleteOptions{}))
	r.check(t)

	// A claim without an owner is somebody's: refused, not retried for ever.
	_, err = r.direct.KV.Put(ctx, claims.Root+"nodeport/30008", "")
	must(err)
	if _, err := create(r.Kube, nodePort("other", 30008)); !apierrors.IsInvalid(err) {
		t.Errorf("got %v, want 422", err)
	}
	r.mustCreate(t, nodePort("other", 0))
}
