package cli

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/dns/settings"
)

// The DNS server alone forwards and says SERVFAIL before it has seen the API, answers
// once that is there, and goes on from memory when it is gone again. DNS-05, DNS-06
func TestDNSAloneWithAndWithoutTheAPI(t *testing.T) {
	dir := t.TempDir()
	api := freeAddress(t)
	listen := func(c *apiserver.Config) {
		c.Listener.Close()
		var err error
		if c.Listener, err = net.Listen("tcp", api); err != nil {
			t.Fatal(err)
		}
	}
	server := apitest.StartIn(t, dir, listen)
	cert, key, err := server.Authority.Client("admin", "system:masters")
	if err != nil {
		t.Fatal(err)
	}
	config := rest.AnonymousClientConfig(server.Config)
	config.Host, config.QPS = "https://"+api, -1
	config.CertData, config.KeyData = cert, key
	server.Stop()

	at := runDNSAlone(t, config, answering(t, "192.0.2.80"))
	if got := lookUp(t, at, "www.example.com."); got != "NOERROR 192.0.2.80" {
		t.Errorf("outside name before the API: %s", got)
	}
	if got := lookUp(t, at, "web.default.svc.cluster.local."); got != "SERVFAIL" {
		t.Errorf("Service before the API: %s", got)
	}

	server = apitest.StartIn(t, dir, listen)
	ctx := t.Context()
	if _, err := server.Kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	web := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.20", Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if _, err := server.Kube.CoreV1().Services("default").Create(ctx, web, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the Service's name", func() error {
		if got := lookUp(t, at, "web.default.svc.cluster.local."); got != "NOERROR 10.96.0.20" {
			return &net.DNSError{Err: got, Name: "web"}
		}
		return nil
	})

	kubeSystem := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: settings.Namespace}}
	if _, err := server.Kube.CoreV1().Namespaces().Create(ctx, kubeSystem, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	own := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: settings.Name}, Data: map[string]string{"hosts": "192.0.2.10 registry.example.com"}}
	if _, err := server.Kube.CoreV1().ConfigMaps(settings.Namespace).Create(ctx, own, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the own entry", func() error {
		if got := lookUp(t, at, "registry.example.com."); got != "NOERROR 192.0.2.10" {
			return &net.DNSError{Err: got, Name: "registry"}
		}
		return nil
	})

	server.Stop()
	for name, want := range map[string]string{
		"registry.example.com.":          "NOERROR 192.0.2.10",
		"web.default.svc.cluster.local.": "NOERROR 10.96.0.20", "no.default.svc.cluster.local.": "NXDOMAIN", "www.example.com.": "NOERROR 192.0.2.80",
	} {
		if got := lookUp(t, at, name); got != want {
			t.Errorf("%s without the API: %s, want %s", name, got, want)
		}
	}
}

// runDNSAlone is `portico agent --only dns` until the test ends.
func runDNSAlone(t *testing.T, config *rest.Config, upstream netip.AddrPort) (at string) {
	t.Helper()
	o := &options{
		serviceCIDR: "10.96.0.0/12", clusterCIDR: "10.244.0.0/16", guestCIDR: "10.245.0.0/16", clusterDomain: "cluster.local",
		dataplane: "auto", vm: "off", nodeName: "test", only: onlyDNS,
		dns: dnsOptions{listen: freeAddress(t), upstream: upstream.String()},
	}
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		if err := runNamesAlone(ctx, o, config, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); group.Wait() })
	apitest.Eventually(t, "the DNS server", func() error {
		_, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA), o.dns.listen)
		return err
	})
	return o.dns.listen
}

// answering is an upstream server that has one address for every name.
func answering(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	s := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetReply(m)
		reply.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(address)}}
		_ = w.WriteMsg(reply)
	})}
	var group sync.WaitGroup
	group.Go(func() { _ = s.ActivateAndServe() })
	<-started
	t.Cleanup(func() { _ = s.Shutdown(); group.Wait() })
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

// freeAddress is one of loopback's that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

func lookUp(t *testing.T, at, name string) string {
	t.Helper()
	c := dns.Client{Timeout: 5 * time.Second}
	in, _, err := c.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), at)
	if err != nil {
		return err.Error()
	}
	out := dns.RcodeToString[in.Rcode]
	for _, rr := range in.Answer {
		if a, ok := rr.(*dns.A); ok {
			out += " " + a.A.String()
		}
	}
	return out
}
