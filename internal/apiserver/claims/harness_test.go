package claims_test

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientset "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/etcd"
	"portico.dev/portico/internal/controllers/addresses"
	"portico.dev/portico/internal/kubevirt"
)

// rig is a server whose store's transactions a test can see and disturb.
type rig struct {
	*apitest.Server
	txns   *txns
	direct *kubernetes.Client // to the store, undisturbed
}

func startRig(t testing.TB, change ...func(*apiserver.Config)) *rig {
	t.Helper()
	r := &rig{txns: &txns{}}
	disturb := func(c *apiserver.Config) {
		direct, err := c.Store.Client()
		if err != nil {
			t.Fatal(err)
		}
		r.direct = direct
		c.Store = disturbed{c.Store, r.txns}
	}
	r.Server = apitest.Start(t, append(change, disturb)...)
	r.namespace(t, "default")
	return r
}

// small leaves room for six addresses and ten node ports.
func small(c *apiserver.Config) {
	c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/29")}
	c.NodePortFirst, c.NodePortLast = 30000, 30009
}

// smallish leaves room for fourteen addresses and twenty node ports.
func smallish(c *apiserver.Config) {
	c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/28")}
	c.NodePortFirst, c.NodePortLast = 30000, 30019
}

func (r *rig) namespace(t testing.TB, name string) {
	t.Helper()
	_, err := r.Kube.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func create(kube clientset.Interface, svc *corev1.Service) (*corev1.Service, error) {
	ns := svc.Namespace
	if ns == "" {
		ns = "default"
	}
	return kube.CoreV1().Services(ns).Create(context.Background(), svc, metav1.CreateOptions{})
}

func (r *rig) mustCreate(t testing.TB, svc *corev1.Service) *corev1.Service {
	t.Helper()
	out, err := create(r.Kube, svc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func clusterIP(name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func nodePort(name string, port int32) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}},
	}
}

func serviceCIDR(name string, cidrs ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
}

// ipAddress is one that somebody made by hand, for a thing of their own.
func ipAddress(ip string) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Group: "example.dev", Resource: "gateways", Name: "own"}},
	}
}

// control runs the controller of addresses until the test ends. The channel has what it
// finds wrong.
func (r *rig) control(t testing.TB, period time.Duration) <-chan string {
	t.Helper()
	machines, err := kubevirt.NewForConfig(r.Config, nil)
	if err != nil {
		t.Fatal(err)
	}
	recorder := record.NewFakeRecorder(1000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- addresses.Run(ctx, addresses.Deps{
			Client: r.Kube, Machines: machines, Claims: r.Claims, Recorder: recorder, NodePortFirst: 30000, NodePortLast: 32767, Period: period,
			Log: slog.New(slog.DiscardHandler), Default: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/28")},
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return recorder.Events
}

// disturbed is a store whose clients report their transactions.
type disturbed struct {
	etcd.Source
	txns *txns
}

func (d disturbed) Client() (*kubernetes.Client, error) {
	c, err := d.Source.Client()
	if err == nil {
		c.KV = disturbedKV{c.KV, d.txns}
	}
	return c, err
}

// hook stands before a transaction that writes: it calls commit, or doesn't.
type hook func(writes []clientv3.Op, commit func() (*clientv3.TxnResponse, error)) (*clientv3.TxnResponse, error)

type txns struct {
	mu   sync.Mutex // guards the following
	hook hook
}

func (x *txns) set(h hook) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.hook = h
}

func (x *txns) get() hook {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.hook
}

type disturbedKV struct {
	clientv3.KV
	txns *txns
}

func (kv disturbedKV) Txn(ctx context.Context) clientv3.Txn {
	return &disturbedTxn{Txn: kv.KV.Txn(ctx), txns: kv.txns}
}

type disturbedTxn struct {
	clientv3.Txn
	txns   *txns
	writes []clientv3.Op
}

func (x *disturbedTxn) If(c ...clientv3.Cmp) clientv3.Txn {
	x.Txn = x.Txn.If(c...)
	return x
}

func (x *disturbedTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	x.Txn = x.Txn.Then(ops...)
	for _, op := range ops {
		if op.IsPut() || op.IsDelete() {
			x.writes = append(x.writes, op)
		}
	}
	return x
}

func (x *disturbedTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	x.Txn = x.Txn.Else(ops...)
	return x
}

func (x *disturbedTxn) Commit() (*clientv3.TxnResponse, error) {
	if h := x.txns.get(); h != nil && len(x.writes) > 0 {
		return h(x.writes, x.Txn.Commit)
	}
	return x.Txn.Commit()
}

// writesTo reports whether the transaction writes the Service of this name.
func writesTo(writes []clientv3.Op, name string) bool {
	return slices.ContainsFunc(writes, func(op clientv3.Op) bool {
		return string(op.KeyBytes()) == "/registry/services/specs/default/"+name
	})
}
