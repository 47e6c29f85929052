package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"portico.dev/portico/internal/core/records"
)

func TestDNSQuery(t *testing.T) {
	server := answering(t, "192.0.2.80").String()
	for _, tt := range []struct {
		q    dnsQuery
		args []string
		want string // of the output, or the error
	}{
		{dnsQuery{}, []string{"www.example.com", "a"}, `^Server  127\.0\.0\.1:\d+, as asked for\nwww\.example\.com\. A  NOERROR, \S+\n  www\.example\.com\.  60  A  192\.0\.2\.80\n$`},
		{dnsQuery{namespace: "shop", domain: "cluster.local"}, []string{"web", "A"}, `\nweb\.shop\.svc\.cluster\.local\. A  NOERROR`},
		{dnsQuery{namespace: "shop", domain: "cluster.local"}, []string{"web.", "A"}, `\nweb\. A  NOERROR`},
		{dnsQuery{}, []string{"10.96.0.10"}, `\n10\.0\.96\.10\.in-addr\.arpa\. PTR  NOERROR`},
		{dnsQuery{}, []string{"a..b"}, `"a\.\.b" is no domain name`},
		{dnsQuery{}, []string{"a", "WRONG"}, `"WRONG" is no type of records`},
		{dnsQuery{server: "nowhere"}, []string{"a"}, `--server: "nowhere" is not an IP address`},
		{dnsQuery{server: "127.0.0.1,127.0.0.2"}, []string{"a"}, `names 2 servers; give one`},
		{dnsQuery{server: freeAddress(t)}, []string{"a"}, `doesn't answer: .*refused; is .portico up. running here`},
	} {
		var out bytes.Buffer
		if tt.q.out = &out; tt.q.server == "" {
			tt.q.server = server
		}
		err := tt.q.run(context.Background(), tt.args[0], tt.args[1:]...)
		text := out.String()
		var exit exitError
		if err != nil && !errors.As(err, &exit) {
			text = err.Error()
		}
		if !regexp.MustCompile(tt.want).MatchString(text) {
			t.Errorf("%v: got\n%s\nwant %s", tt.args, text, tt.want)
		}
	}
}

func TestDNSQueryCandidates(t *testing.T) {
	q := dnsQuery{namespace: "shop", domain: "cluster.local"}
	for name, want := range map[string]string{
		"web.":         "web.shop.svc.cluster.local. web.svc.cluster.local. web.cluster.local. web.",
		"a.b.c.d.e.f.": "a.b.c.d.e.f. a.b.c.d.e.f.shop.svc.cluster.local. a.b.c.d.e.f.svc.cluster.local. a.b.c.d.e.f.cluster.local.",
	} {
		if got := strings.Join(q.candidates(name, false), " "); got != want {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

func TestDNSRecords(t *testing.T) {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	slice := &discoveryv1.EndpointSlice{ObjectMeta: meta("db-a"), AddressType: discoveryv1.AddressTypeIPv4}
	slice.Labels = map[string]string{discoveryv1.LabelServiceName: "db"}
	hostname := "db-0"
	slice.Endpoints = []discoveryv1.Endpoint{{Addresses: []string{"10.245.0.2"}, Hostname: &hostname}}
	vm := &corev1.Pod{ObjectMeta: meta("virt-launcher-front"), Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: "10.245.0.9"}}}}
	vm.Labels = map[string]string{records.MachineLabel: "front"}
	kube := fake.NewClientset(slice, vm, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.Service{ObjectMeta: meta("web"), Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.20", ClusterIPs: []string{"10.96.0.20"}, Ports: []corev1.ServicePort{{Name: "http", Port: 80}}}},
		&corev1.Service{ObjectMeta: meta("db"), Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}})
	var out bytes.Buffer
	if err := listRecords(context.Background(), kube, "shop", "cluster.local", &out); err != nil {
		t.Fatal(err)
	}
	want := `NAME                                    TYPE  DATA
2.0.245.10.in-addr.arpa.                PTR   db-0.db.shop.svc.cluster.local.
20.0.96.10.in-addr.arpa.                PTR   web.shop.svc.cluster.local.
9.0.245.10.in-addr.arpa.                PTR   front.shop.vm.cluster.local.
_http._tcp.web.shop.svc.cluster.local.  SRV   0 100 80 web.shop.svc.cluster.local. [10.96.0.20]
db-0.db.shop.svc.cluster.local.         A     10.245.0.2
db.shop.svc.cluster.local.              A     10.245.0.2
front.shop.vm.cluster.local.            A     10.245.0.9
web.shop.svc.cluster.local.             A     10.96.0.20
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	err := listRecords(context.Background(), kube, "shpo", "cluster.local", io.Discard)
	if err == nil || !strings.Contains(err.Error(), `no namespace "shpo"`) {
		t.Errorf("a mistyped namespace: %v", err)
	}
}
