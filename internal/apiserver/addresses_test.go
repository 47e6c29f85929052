package apiserver_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/ipam"
)

const (
	cidrsPath = "/apis/networking.k8s.io/v1/servicecidrs"
	ipsPath   = "/apis/networking.k8s.io/v1/ipaddresses"
)

func prefixes(texts ...string) func(*apiserver.Config) {
	return func(c *apiserver.Config) {
		c.ServiceCIDRs = nil
		for _, text := range texts {
			c.ServiceCIDRs = append(c.ServiceCIDRs, netip.MustParsePrefix(text))
		}
	}
}

// ALLOC-05: what can't be a ServiceCIDR or an IPAddress is refused in upstream's words.
func TestAddressObjectsAreValidated(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, c := range []struct{ spec, want string }{
		{`{}`, "spec.cidrs: Required value: at least one CIDR required"},
		{`{"cidrs":["10.1.0.0/24","fd01::/112","10.2.0.0/24"]}`, "may only hold up to 2 values"},
		{`{"cidrs":["10.1.0.0/24","10.2.0.0/24"]}`, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"},
		{`{"cidrs":["10.1.0.0"]}`, "spec.cidrs[0]: Invalid value"},
		{`{"cidrs":["10.1.0.7/24"]}`, "spec.cidrs[0]: Invalid value"},
		{`{"cidrs":["FD01::/112"]}`, `must be in canonical form ("fd01::/112")`},
		{`{"cidrs":["fd01::/48"]}`, "larger than a /64"},
		{`{"cidrs":["10.1.0.0/32"]}`, "holds no address to give away"},
		{`{"cidrs":["10.245.3.0/24"]}`, "overlaps with 10.245.0.0/16, from which virtual machines get their addresses; choose another range"},
	} {
		ask(t, s, "POST", cidrsPath, `{"metadata":{"name":"wrong"},"spec":`+c.spec+`}`).want(t, 422, c.want)
	}
	ask(t, s, "POST", cidrsPath, `{"metadata":{"name":"more"},"spec":{"cidrs":["10.1.0.0/24"]}}`).want(t, 201, `"networking.k8s.io/service-cidr-finalizer"`)
	for body, want := range map[string]string{
		`{"spec":{"cidrs":["10.2.0.0/24"]}}`:               "spec.cidrs: Invalid value",
		`{"spec":{"cidrs":["fd01::/112","10.1.0.0/24"]}}`:  "field is immutable",
		`{"spec":{"cidrs":["10.1.0.0/24","10.2.0.0/24"]}}`: "no more than one IP for each IP family",
	} {
		patch(t, s, cidrsPath+"/more", body).want(t, 422, want)
	}
	patch(t, s, cidrsPath+"/more", `{"spec":{"cidrs":["10.1.0.0/24","fd01::/112"]}}`).want(t, 200) // KEP-1880
	patch(t, s, cidrsPath+"/more", `{"spec":{"cidrs":["10.1.0.0/24"]}}`).want(t, 422, "field is immutable")

	const ref = `,"spec":{"parentRef":{"resource":"things","name":"a"}}}`
	for body, want := range map[string]string{
		`{"metadata":{"name":"web"}` + ref:       "metadata.name: Invalid value",
		`{"metadata":{"name":"fd01:0::1"}` + ref: `must be in canonical form ("fd01::1")`,
		`{"metadata":{"name":"10.1.0.9"}}`:       "spec.parentRef: Required value",
		`{"metadata":{"name":"10.1.0.9"},"spec":{"parentRef":{"group":"A","name":"a/b","namespace":".."}}}`: "spec.parentRef.resource: Required value",
	} {
		ask(t, s, "POST", ipsPath, body).want(t, 422, want)
	}
	ask(t, s, "POST", ipsPath, `{"metadata":{"name":"10.1.0.9"}`+ref).want(t, 201)
	patch(t, s, ipsPath+"/10.1.0.9", `{"spec":{"parentRef":{"name":"b"}}}`).want(t, 422, "field is immutable")
}

func patch(t *testing.T, s *apitest.Server, path, body string) answer {
	t.Helper()
	client, err := rest.HTTPClientFor(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	return askWith(t, client, s.Config.Host, "PATCH", path, "application/merge-patch+json", body)
}

// ALLOC-05: the default ServiceCIDR is there when the server is ready, and stays when
// the next start has other flags, but for a family that comes second.
func TestDefaultServiceCIDR(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	has := func(s *apitest.Server, want string) {
		t.Helper()
		cidr, err := s.Kube.NetworkingV1().ServiceCIDRs().Get(context.Background(), ipam.DefaultServiceCIDR, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ready := meta.IsStatusConditionTrue(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		if got := strings.Join(cidr.Spec.CIDRs, ","); got != want || !ready {
			t.Errorf("got %s, ready %v; want %s", got, ready, want)
		}
	}
	s := apitest.StartIn(t, dir, prefixes("10.96.0.0/12"))
	makeNamespace(t, s, "default")
	has(s, "10.96.0.0/12")
	s.Stop()
	s = apitest.StartIn(t, dir, prefixes("10.96.0.0/12", "fd00:10:96::/112"))
	has(s, "10.96.0.0/12,fd00:10:96::/112")
	s.Stop()
	s = apitest.StartIn(t, dir, prefixes("10.223.240.0/20"))
	has(s, "10.96.0.0/12,fd00:10:96::/112")
	ask(t, s, "POST", "/api/v1/namespaces/default/services", `{"metadata":{"name":"web"},"spec":{"clusterIP":"10.96.0.20","ports":[{"port":80}]}}`).want(t, 201)
}

// ALLOC-01: a chosen address, and a second Service that chooses it too.
func TestChosenClusterIP(t *testing.T) {
	t.Parallel()
	s := start(t)
	const services = "/api/v1/namespaces/default/services"
	manifest := func(name, ip string) string {
		return `{"metadata":{"name":"` + name + `"},"spec":{"clusterIP":"` + ip + `","selector":{"app":"myapp"},"ports":[{"port":80,"targetPort":9376}]}}`
	}
	ask(t, s, "POST", services, manifest("myapp", "10.97.97.97")).want(t, 201, `"clusterIP":"10.97.97.97"`)
	ask(t, s, "POST", services, manifest("second", "10.97.97.97")).want(t, 422,
		`Service "second" is invalid: spec.clusterIPs: Invalid value: ["10.97.97.97"]: failed to allocate IP 10.97.97.97: provided IP is already allocated`)

	other := start(t, prefixes("10.223.240.0/20"))
	ask(t, other, "POST", services, manifest("myapp", "10.223.244.110")).want(t, 201, `"clusterIP":"10.223.244.110"`)
	svc, err := other.Kube.CoreV1().Services("default").Create(context.Background(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "any"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil || !netip.MustParsePrefix("10.223.240.0/20").Contains(netip.MustParseAddr(svc.Spec.ClusterIP)) {
		t.Errorf("got %v, %v", svc, err)
	}
	ask(t, other, "POST", services, manifest("outside", "10.97.97.97")).want(t, 422,
		"failed to allocate IP 10.97.97.97: the provided IP (10.97.97.97) is not in the valid range. The range of valid IPs is 10.223.240.0/20")
}
