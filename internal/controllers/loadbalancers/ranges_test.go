package loadbalancers_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/apiserver/apitest"
)

// LB-01, ALLOC-05: a range of cluster IPs that is added later is no load balancer's, as the
// first one; when it is gone, it may be.
func TestLaterServiceCIDRsAreReserved(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.run()
	w.pool("lan", "203.0.113.0-203.0.113.1", "192.0.2.0/31")
	w.service("web")
	w.is("web", "203.0.113.0", "lan")
	w.pool("first", "10.96.7.0/24")
	w.state("Invalid", "10.96.0.0/12, the cluster IPs of ServiceCIDR kubernetes")

	cidrs := w.Kube.NetworkingV1().ServiceCIDRs()
	if _, err := cidrs.Create(t.Context(), &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"203.0.113.0/24"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.state("Invalid", "203.0.113.0/24, the cluster IPs of ServiceCIDR more")
	w.is("web", "192.0.2.0", "lan")
	w.counts("lan", 1, 1)

	if err := cidrs.Delete(t.Context(), "more", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := cidrs.Patch(t.Context(), "more", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.counts("lan", 1, 3)
	w.is("web", "192.0.2.0", "lan")
}

// LB-01: what becomes a node's own later, its addresses and its pods' ranges of both
// families, is no load balancer's from then on; a Service that has such an address moves,
// and the pool says why.
func TestLaterNodesAreReserved(t *testing.T) {
	t.Parallel()
	w := begin(t)
	w.run()
	w.pool("lan", "203.0.113.0/30", "2001:db8:7::/127")
	w.service("web", ask("203.0.113.1"))
	w.is("web", "203.0.113.1", "lan")
	w.counts("lan", 1, 3) // of IPv4
	if _, err := w.Kube.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec:       corev1.NodeSpec{PodCIDR: "203.0.113.2/31", PodCIDRs: []string{"203.0.113.2/31", "2001:db8:7::/64"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.state("Invalid", "203.0.113.2/31, the pod addresses of node a")
	w.state("Invalid", "2001:db8:7::/64, the pod addresses of node a")
	w.counts("lan", 1, 1)
	status := []byte(`{"status":{"addresses":[{"type":"InternalIP","address":"198.51.100.1"},{"type":"ExternalIP","address":"203.0.113.1"}]}}`)
	if _, err := w.Kube.CoreV1().Nodes().Patch(t.Context(), "a", types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	w.state("Invalid", "203.0.113.1/32, the address of node a")
	w.event("IPAddressPool", "lan", "RangeIgnored", "the address of node a")
	w.pends("web", "AddressNotInPool", "203.0.113.1 is in no IPAddressPool")
	w.service("next")
	w.is("next", "203.0.113.0", "lan")
}

// LB-07: how full pools are, and how many Services wait and why, in numbers.
func TestMetrics(t *testing.T) {
	t.Parallel()
	w := begin(t)
	stop := w.run()
	w.service("early")
	w.measures(`pending_services{lacks="address",reason="NoPools"} 1`)
	w.pool("lan", "192.0.2.0/31", "2001:db8::/128")
	w.is("early", "192.0.2.0", "lan")
	prefer := corev1.IPFamilyPolicyPreferDualStack
	both := func(svc *corev1.Service) { svc.Spec.IPFamilyPolicy = &prefer }
	w.service("both", both)
	w.is("both", "192.0.2.1 2001:db8::", "lan")
	w.measures(`pool_addresses{ip_family="ipv4",pool="lan"} 2`, `pool_addresses{ip_family="ipv6",pool="lan"} 1`,
		`pool_addresses_assigned{ip_family="ipv4",pool="lan"} 2`, `pool_addresses_assigned{ip_family="ipv6",pool="lan"} 1`)
	w.service("late")
	w.measures(`pending_services{lacks="address",reason="AddressesExhausted"} 1`)
	if err := w.Kube.CoreV1().Services("default").Delete(t.Context(), "early", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.is("late", "192.0.2.0", "lan")
	w.lacksMeasure("pending_services")
	w.pool("more", "198.51.100.0/32")
	w.service("half", both)
	w.is("half", "198.51.100.0", "more")
	w.measures(`pending_services{lacks="second_family",reason="NoFamily"} 1`)
	stop()
	w.lacksMeasure("pool_addresses") // another process may have the Lease now
}

// measured gives the metrics as a scraper reads them.
func (w *world) measured() string {
	w.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.metrics)
	families, err := registry.Gather()
	if err != nil {
		w.Fatal(err)
	}
	var out strings.Builder
	for _, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			fmt.Fprintf(&out, "%s{%s} %v\n", f.GetName(), strings.Join(labels, ","), m.Gauge.GetValue())
		}
	}
	return out.String()
}

func (w *world) measures(lines ...string) {
	w.Helper()
	for _, line := range lines {
		apitest.Eventually(w, line, func() error {
			if text := w.measured(); !strings.Contains(text, "portico_loadbalancer_"+line+"\n") {
				return fmt.Errorf("it is\n%s", text)
			}
			return nil
		})
	}
}

func (w *world) lacksMeasure(name string) {
	w.Helper()
	apitest.Eventually(w, "no "+name, func() error {
		if text := w.measured(); strings.Contains(text, "portico_loadbalancer_"+name) {
			return fmt.Errorf("it is\n%s", text)
		}
		return nil
	})
}
