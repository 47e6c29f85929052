package addresses_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/apiserver/claims"
	"portico.dev/portico/internal/controllers/addresses"
	"portico.dev/portico/internal/core/ipam"
	"portico.dev/portico/internal/kubevirt"
)

// cluster is a real API server whose store a test can spoil.
type cluster struct {
	*testing.T
	*apitest.Server
	store  *kubernetes.Client
	events *record.FakeRecorder
}

func start(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{T: t, events: record.NewFakeRecorder(1000)}
	c.Server = apitest.Start(t, func(c *apiserver.Config) {
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/24")}
	})
	var err error
	c.store, err = c.Store.Client()
	c.must(err)
	_, err = c.Kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	c.must(err)
	return c
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// control runs the controller until the test ends, or until stop.
func (c *cluster) control() (stop func()) {
	c.Helper()
	machines, err := kubevirt.NewForConfig(c.Config, nil)
	c.must(err)
	return apitest.Run(c, func(ctx context.Context) error {
		return addresses.Run(ctx, addresses.Deps{
			Client: c.Kube, Machines: machines, Claims: c.Claims, Recorder: c.events, Log: slog.New(slog.DiscardHandler),
			Default: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/24")}, NodePortFirst: 30000, NodePortLast: 32767,
		})
	})
}

func (c *cluster) service(name, ip string, port int32) *corev1.Service {
	c.Helper()
	svc, err := c.Kube.CoreV1().Services("default").Create(c.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}},
	}, metav1.CreateOptions{})
	c.must(err)
	return svc
}

func (c *cluster) addRange(name string, cidrs ...string) {
	c.Helper()
	_, err := c.Kube.NetworkingV1().ServiceCIDRs().Create(c.Context(), &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs},
	}, metav1.CreateOptions{})
	c.must(err)
}

// ready waits until the ServiceCIDR's condition is status with that reason.
func (c *cluster) ready(name string, status metav1.ConditionStatus, reason string) {
	c.Helper()
	apitest.Eventually(c, fmt.Sprintf("ServiceCIDR %s Ready=%s %s", name, status, reason), func() error {
		cidr, err := c.Kube.NetworkingV1().ServiceCIDRs().Get(c.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		is := meta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		if is == nil || is.Status != status || is.Reason != reason {
			return fmt.Errorf("it is %+v", is)
		}
		return nil
	})
}

func (c *cluster) gone(name string) {
	c.Helper()
	apitest.Eventually(c, "ServiceCIDR "+name+" is gone", func() error {
		_, err := c.Kube.NetworkingV1().ServiceCIDRs().Get(c.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there: %v", err)
	})
}

// ALLOC-05: a range goes when nothing of it is used, or when another has its addresses.
func TestRangeEndsWhenItIsUnused(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.control()
	ctx := t.Context()
	cidrs := c.Kube.NetworkingV1().ServiceCIDRs()
	c.ready(ipam.DefaultServiceCIDR, metav1.ConditionTrue, "Ready")

	c.addRange("used", "10.97.0.0/24")
	c.ready("used", metav1.ConditionTrue, "Ready")
	c.service("web", "10.97.0.20", 0)
	c.must(cidrs.Delete(ctx, "used", metav1.DeleteOptions{}))
	c.ready("used", metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating)
	// A larger one has the address: the smaller may go.
	c.addRange("larger", "10.97.0.0/16")
	c.gone("used")
	c.must(cidrs.Delete(ctx, "larger", metav1.DeleteOptions{}))
	c.ready("larger", metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating)
	c.must(c.Kube.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}))
	c.gone("larger")

	// The default comes again; its finalizer can't be forgotten.
	c.must(cidrs.Delete(ctx, ipam.DefaultServiceCIDR, metav1.DeleteOptions{}))
	apitest.Eventually(t, "the default ServiceCIDR, made again", func() error {
		cidr, err := cidrs.Get(ctx, ipam.DefaultServiceCIDR, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if cidr.DeletionTimestamp != nil {
			return fmt.Errorf("it is ending")
		}
		return nil
	})
	c.ready(ipam.DefaultServiceCIDR, metav1.ConditionTrue, "Ready")
	c.service("again", "10.96.0.20", 0)
}

func (c *cluster) put(key, owner string) {
	c.Helper()
	_, err := c.store.KV.Put(c.Context(), claims.Root+key, owner)
	c.must(err)
}

func (c *cluster) remove(key string) {
	c.Helper()
	_, err := c.store.KV.Delete(c.Context(), claims.Root+key)
	c.must(err)
}

// owners reads the claims.
func (c *cluster) owners() map[string]string {
	c.Helper()
	resp, err := c.store.KV.Get(c.Context(), claims.Root, clientv3.WithPrefix())
	c.must(err)
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		out[strings.TrimPrefix(string(kv.Key), claims.Root)] = string(kv.Value)
	}
	return out
}

// ALLOC-03: at its start the check repairs what it can, and tells of all it finds.
func TestCheckRepairs(t *testing.T) {
	t.Parallel()
	c := start(t)
	c.addRange("extra", "10.98.0.0/24")
	sound := c.service("sound", "10.96.0.20", 30020)
	robbed := c.service("robbed", "10.96.0.21", 30021)
	lacking := c.service("lacking", "10.96.0.22", 30022)
	double := c.service("double", "10.96.0.23", 30023)
	outside := c.service("outside", "10.98.0.1", 30024)

	c.put("ip/10.96.0.99", "gone")
	c.put("nodeport/30099", "gone")
	c.put("nodeport/30098", string(sound.UID))
	c.put("future/192.0.2.1", "gone") // not ours to judge
	c.put("nodeport/30021", "gone")
	c.remove("ip/10.96.0.22")
	// Two that have one address by what they say: the store is spoilt by hand.
	c.remove("ip/10.96.0.23")
	c.put("ip/10.96.0.23", string(double.UID))
	key := "/registry/services/specs/default/sound"
	resp, err := c.store.KV.Get(t.Context(), key)
	c.must(err)
	spoilt := strings.ReplaceAll(string(resp.Kvs[0].Value), "10.96.0.20", "10.96.0.23")
	_, err = c.store.KV.Put(t.Context(), key, spoilt)
	c.must(err)
	// And a range that is taken away by force.
	cidrs := c.Kube.NetworkingV1().ServiceCIDRs()
	c.must(cidrs.Delete(t.Context(), "extra", metav1.DeleteOptions{}))
	extra, err := cidrs.Get(t.Context(), "extra", metav1.GetOptions{})
	c.must(err)
	extra.Finalizers = nil
	_, err = cidrs.Update(t.Context(), extra, metav1.UpdateOptions{})
	c.must(err)

	stop := c.control()
	want := map[string]string{
		"ip/10.96.0.21": string(robbed.UID), "nodeport/30021": string(robbed.UID),
		"ip/10.96.0.22": string(lacking.UID), "nodeport/30022": string(lacking.UID),
		"ip/10.96.0.23": string(double.UID), "nodeport/30023": string(double.UID),
		"ip/10.98.0.1": string(outside.UID), "nodeport/30024": string(outside.UID),
		"nodeport/30020": string(sound.UID), "future/192.0.2.1": "gone",
	}
	apitest.Eventually(t, "repaired claims", func() error {
		is := c.owners()
		for key := range is {
			if strings.HasPrefix(key, "range/") {
				delete(is, key)
			}
		}
		if fmt.Sprint(is) != fmt.Sprint(want) {
			return fmt.Errorf("got  %v\nwant %v", is, want)
		}
		return nil
	})
	var told []string
	for len(told) < 6 {
		told = append(told, <-c.events.Events)
	}
	stop()
	slices.Sort(told)
	wantTold := []string{
		"Warning ClaimNotUsed Cluster IP [IPv4]: 10.96.0.20 appears to have leaked: cleaning up",
		"Warning ClaimNotUsed Port 30098 appears to have leaked: cleaning up",
		"Warning ClusterIPAlreadyAllocated Cluster IP [IPv4]: 10.96.0.23 was assigned to multiple services; please recreate service",
		"Warning ClusterIPNotAllocated Cluster IP [IPv4]: 10.96.0.22 is not allocated; repairing",
		"Warning ClusterIPOutOfRange Cluster IP [IPv4]: 10.98.0.1 is not within any configured Service CIDR; please recreate service",
		"Warning PortNotAllocated Port 30021 is not allocated; repairing",
	}
	if !slices.Equal(told, wantTold) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(wantTold, "\n"))
	}
}

// ALLOC-03: nothing is freed that has changed since it was read.
func TestRepairComparesWhatWasRead(t *testing.T) {
	t.Parallel()
	c := start(t)
	ctx := t.Context()
	svc := c.service("web", "10.96.0.20", 30020)
	held, err := c.Claims.List(ctx)
	c.must(err)
	at := slices.IndexFunc(held, func(h ipam.Held) bool { return h.Key == "nodeport/30020" })
	holder := &ipam.Holder{Resource: corev1.Resource("services"), Namespace: "default", Name: "web", ResourceVersion: svc.ResourceVersion}
	repair := ipam.Repair{Key: "nodeport/30020", Revision: held[at].Revision, If: []*ipam.Holder{holder}}

	svc.Labels = map[string]string{"changed": "since"}
	svc, err = c.Kube.CoreV1().Services("default").Update(ctx, svc, metav1.UpdateOptions{})
	c.must(err)
	if done, err := c.Claims.Repair(ctx, repair); done || err != nil {
		t.Errorf("the object has changed: %v %v", done, err)
	}
	holder.ResourceVersion = svc.ResourceVersion
	stale := repair
	stale.Revision--
	if done, err := c.Claims.Repair(ctx, stale); done || err != nil {
		t.Errorf("the claim has changed: %v %v", done, err)
	}
	if c.owners()["nodeport/30020"] != string(svc.UID) {
		t.Error("the claim is gone")
	}
	if done, err := c.Claims.Repair(ctx, repair); !done || err != nil {
		t.Errorf("nothing has changed: %v %v", done, err)
	}
	if c.owners()["nodeport/30020"] != "" {
		t.Error("the claim is there still")
	}
}
