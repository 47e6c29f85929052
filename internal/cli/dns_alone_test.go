package cli

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"portico.dev/portico/internal/apiserver"
	"portico.dev/portico/internal/apiserver/apitest"
	"portico.dev/portico/internal/core/records"
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

	at, metrics := runDNSAlone(t, config, answering(t, "192.0.2.80"))
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

	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{records.MachineLabel: "vm"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if pod, err = server.Kube.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.245.0.9", PodIPs: []corev1.PodIP{{IP: "10.245.0.9"}}}
	if _, err := server.Kube.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	apitest.Eventually(t, "the machine's name", func() error {
		if got := lookUp(t, at, "vm.default.vm.cluster.local."); got != "NOERROR 10.245.0.9" {
			return &net.DNSError{Err: got, Name: "vm"}
		}
		return nil
	})

	server.Stop()
	if text := get(t, "http://"+metrics+"/metrics"); !strings.Contains(text, `portico_dns_queries_total{rcode="NOERROR",transport="udp",type="A"}`) {
		t.Errorf("metrics:\n%s", text)
	}
	for name, want := range map[string]string{
		"vm.default.vm.cluster.local.":          "NOERROR 10.245.0.9",
		"10-245-0-9.default.pod.cluster.local.": "NOERROR 10.245.0.9", "10-245-0-8.default.pod.cluster.local.": "NXDOMAIN",
		"registry.example.com.":          "NOERROR 192.0.2.10",
		"web.default.svc.cluster.local.": "NOERROR 10.96.0.20", "no.default.svc.cluster.local.": "NXDOMAIN", "www.example.com.": "NOERROR 192.0.2.80",
	} {
		if got := lookUp(t, at, name); got != want {
			t.Errorf("%s without the API: %s, want %s", name, got, want)
		}
	}
}

// runDNSAlone is `portico agent --only dns` until the test ends.
func runDNSAlone(t *testing.T, config *rest.Config, upstream netip.AddrPort) (at, metrics string) {
	t.Helper()
	o := &options{}
	o.nodeFlags(pflag.NewFlagSet("test", pflag.ContinueOnError))
	o.nodeName, o.only, o.metrics = "test", onlyDNS, freeAddress(t)
	o.dns.listen, o.dns.upstream, o.dns.podNames = freeAddress(t), upstream.String(), "existing"
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
	return o.dns.listen, o.metrics
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
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

// freeAddress is one of loopback's that nobody listens on. Its IP address is this process's
// own: on 127.0.0.1 another's connection may get the port before it is listened on.
func freeAddress(t *testing.T) string {
	t.Helper()
	pid := os.Getpid()
	own := netip.AddrFrom4([4]byte{127, 77, byte(pid >> 8), byte(pid)})
	l, err := net.Listen("tcp", netip.AddrPortFrom(own, 0).String())
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

// What can't be is said before anything is opened, with the flag and the remedy.
func TestDNSFlags(t *testing.T) {
	for _, tt := range []struct{ flags, want string }{
		{"--dns-pod-names=some", `--dns-pod-names "some" is unknown; choose one of any, existing, off`},
		{"--dns-tls-cert=/c", "--dns-tls-cert and --dns-tls-key belong together; give both files or none"},
		{"--dns-tls", "--dns-tls: this process has no certificate; name one with --dns-tls-cert and --dns-tls-key"},
		{"--dns-tls-cert=/no --dns-tls-key=/no", "--dns-tls-cert and --dns-tls-key: DNS over TLS: read the certificate /no with the key /no: open /no: no such file or directory"},
	} {
		o := &options{}
		f := pflag.NewFlagSet("test", pflag.ContinueOnError)
		o.nodeFlags(f)
		if err := f.Parse(strings.Fields(tt.flags)); err != nil {
			t.Fatal(err)
		}
		err := o.dns.complete()
		if err == nil {
			_, _, err = o.listenNames(t.Context(), nil, nil, slog.New(slog.DiscardHandler))
		}
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v", tt.flags, err)
		}
	}
}
