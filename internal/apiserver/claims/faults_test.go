package claims_test

import (
	"context"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var errUnavailable = status.Error(codes.Unavailable, "injected: the connection broke")

// lose loses the answer to writes of a Service, after they were done or instead.
func (r *rig) lose(name string, done bool, answer error) {
	r.txns.set(func(writes []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
		if !writesTo(writes, name) {
			return commit()
		}
		if done {
			if resp, err := commit(); err != nil || !resp.Succeeded {
				return resp, err // not done: it began from a version that a cache had still
			}
		}
		return nil, answer
	})
}

// ALLOC-03: the result of a write whose answer got lost is found out by reading.
func TestLostAnswerOfADoneWriteIsSuccess(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	ctx := context.Background()
	services := r.Kube.CoreV1().Services("default")
	for _, answer := range []error{errUnavailable, rpctypes.ErrTimeout, context.DeadlineExceeded} {
		r.lose("web", true, answer)
		svc, err := create(r.Kube, nodePort("web", 30010))
		if err != nil || svc.ResourceVersion == "" {
			t.Fatalf("create, %v: %v", answer, err)
		}
		svc.Spec.Ports[0].NodePort = 30011
		if svc, err = services.Update(ctx, svc, metav1.UpdateOptions{}); err != nil || svc.Spec.Ports[0].NodePort != 30011 {
			t.Fatalf("update, %v: %v", answer, err)
		}
		svc.Spec.Selector = map[string]string{"no": "claims"} // a plain put
		if _, err = services.Update(ctx, svc, metav1.UpdateOptions{}); err != nil {
			t.Fatalf("update without claims, %v: %v", answer, err)
		}
		r.check(t)
		if err := services.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
			t.Fatalf("delete, %v: %v", answer, err)
		}
		r.check(t)
	}
	// What the revision of a resolved write is worth: a watch that starts from it
	// misses nothing.
	r.lose("seen", true, errUnavailable)
	svc, err := create(r.Kube, clusterIP("seen", ""))
	if err != nil {
		t.Fatal(err)
	}
	r.txns.set(nil)
	w, err := services.Watch(ctx, metav1.ListOptions{ResourceVersion: svc.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := services.Delete(ctx, "seen", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if ev := <-w.ResultChan(); ev.Type != "DELETED" {
		t.Errorf("got %v", ev)
	}
}

// ALLOC-03: where reading doesn't tell, the client is told so, once, and nothing is
// freed: the write may yet be done.
func TestLostWriteIsATimeout(t *testing.T) {
	t.Parallel()
	r := startRig(t)
	ctx := context.Background()
	services := r.Kube.CoreV1().Services("default")
	timeout := func(what string, err error) {
		t.Helper()
		if !apierrors.IsTimeout(err) {
			t.Errorf("%s: got %v, want 504 Timeout", what, err)
		}
		if _, again := apierrors.SuggestsClientDelay(err); again {
			t.Errorf("%s: the answer makes clients repeat the write by themselves", what)
		}
		r.check(t)
	}
	tries := 0
	r.txns.set(func(writes []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error) {
		if writesTo(writes, "web") {
			tries++
			return nil, errUnavailable
		}
		return commit()
	})
	_, err := create(r.Kube, nodePort("web", 30010))
	timeout("create", err)
	if tries != 1 {
		t.Errorf("the write was tried %d times", tries)
	}
	r.txns.set(nil)
	svc := r.mustCreate(t, nodePort("web", 30010))
	r.lose("web", false, errUnavailable)
	svc.Spec.Ports[0].NodePort = 30011
	_, err = services.Update(ctx, svc, metav1.UpdateOptions{})
	timeout("update", err)
	timeout("delete", services.Delete(ctx, "web", metav1.DeleteOptions{}))
	r.txns.set(nil)
	if _, err := create(r.Kube, nodePort("thief", 30010)); !apierrors.IsInvalid(err) {
		t.Errorf("the port that a lost delete kept: got %v, want 422", err)
	}
}

// A refusal is no unknown result: it is answered at once, and the choice is free again.
func TestRefusalIsNoTimeout(t *testing.T) {
	t.Parallel()
	r := startRig(t, small)
	for _, answer := range []error{rpctypes.Error(rpctypes.ErrGRPCNoSpace), rpctypes.Error(rpctypes.ErrGRPCRequestTooLarge), rpctypes.ErrGRPCTooManyOps} {
		for i := range 8 { // more than there are addresses
			r.lose("web", false, answer)
			if _, err := create(r.Kube, clusterIP("web", "")); err == nil || apierrors.IsTimeout(err) {
				t.Fatalf("%v, try %d: got %v", answer, i, err)
			}
		}
		r.txns.set(nil)
		r.mustCreate(t, clusterIP("fits", ""))
		if err := r.Kube.CoreV1().Services("default").Delete(context.Background(), "fits", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
