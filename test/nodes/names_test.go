package nodes

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"portico.dev/portico/test/rig"
)

const names = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.20, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: portico-dns, namespace: kube-system}
data:
  hosts: 192.0.2.10 registry.example.com
  rewrites: old.example.com web.default.svc.cluster.local
`

// DNS-01, DNS-06, DNS-07, ENV-01: each node answers its own clients, by the Service's
// address too, and goes on when the API is gone; own entries outlive restarts; nobody else
// is answered; and each tells people what it is and whom it reaches.
func TestNames(t *testing.T) {
	l := newLAN(t)
	a, b, stranger := l.host(t, "a"), l.host(t, "b"), l.host(t, "stranger")
	nowhere := filepath.Join(t.TempDir(), "resolv.conf") // names outside come from nobody
	up := []string{"up", "--node-name", "a", "--advertise-address", a.ipv4.String(), "--vm", "off", "--resolv-conf", nowhere}
	a.start(up...)
	a.untilReady("a")
	a.apply(names)
	b.start(append(a.joinArgs(), "--node-name", "b", "--vm", "off", "--resolv-conf", nowhere)...)
	a.untilReady("a", "b")

	for _, h := range []*host{a, b} {
		h.untilNamed("web.default.svc.cluster.local", "10.96.0.20")
		h.untilNamed("old.example.com", "10.96.0.20")
	}
	b.until("b prefers its own server", func() error {
		out, err := b.run("dataplane", "show", "--data-dir", b.dir, "--service", "kube-system/kube-dns")
		if err == nil && (!strings.Contains(out, " 10.244.1.1:53") || strings.Contains(out, " 10.244.0.1:53")) {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
	asked := map[*host]int{a: a.queries(), b: b.queries()}
	for range 10 {
		b.untilNamed("registry.example.com", "192.0.2.10", "--server", "10.96.0.10")
	}
	if on, here := a.queries()-asked[a], b.queries()-asked[b]; on != 0 || here < 10 {
		t.Errorf("of 10 queries of b to kube-dns' address %d came to a, %d to b", on, here)
	}

	if err := stranger.AddRoute(rig.Route{To: netip.MustParsePrefix("10.244.0.0/24"), Link: rig.Uplink, Via: a.ipv4}); err != nil {
		t.Fatal(err)
	}
	for _, how := range [][]string{nil, {"--tcp"}} {
		for _, name := range []string{"web.default.svc.cluster.local", "registry.example.com", "example.com"} {
			out, err := stranger.run(append([]string{"dns", "query", name, "A", "--server", "10.244.0.1"}, how...)...)
			if err == nil || !strings.Contains(out, "REFUSED") {
				t.Errorf("a stranger asks for %s %v: %v, %s", name, how, err, out)
			}
		}
	}

	for _, h := range []*host{a, b} {
		if out := h.must("env"); !strings.Contains(out, "WEB_SERVICE_HOST=10.96.0.20\n") || !strings.Contains(out, "WEB_PORT_80_TCP_ADDR=10.96.0.20") {
			t.Errorf("the environment on %s:\n%s", h.Name, out)
		}
		if out := h.must("dns", "records", "-n", "default"); !strings.Contains(out, "_http._tcp.web.default.svc.cluster.local.") {
			t.Errorf("the records on %s:\n%s", h.Name, out)
		}
		for _, args := range [][]string{{"env", "-n", "typo"}, {"env", "-n", "typo", "--vm", "web"}, {"dns", "records", "-n", "typo"}} {
			if out, err := h.run(args...); err == nil || !strings.Contains(out, `there is no namespace "typo"`) {
				t.Errorf("%v on %s: %v, %s", args, h.Name, err, out)
			}
		}
		other := map[*host]*host{a: b, b: a}[h]
		out := h.must("status", "--data-dir", h.dir)
		for _, want := range []string{
			"Node        " + h.Name + " (this host), Ready", "Peer        " + other.Name + " at " + other.ipv4.String(),
			"IPv4: direct by " + other.ipv4.String(), "IPv6: direct by " + other.ipv6.String(), "Problems    none",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("the status on %s doesn't say %q:\n%s", h.Name, want, out)
			}
		}
	}

	a.signal(syscall.SIGTERM)
	b.untilNamed("web.default.svc.cluster.local", "10.96.0.20")
	b.untilNamed("old.example.com", "10.96.0.20", "--server", "10.96.0.10")
	if err := os.WriteFile(nowhere, []byte("nameserver 192.0.2.1\n"), 0o600); err != nil { // where nobody is
		t.Fatal(err)
	}
	if out, err := b.run("dns", "query", "www.example.com", "A"); err == nil || !strings.Contains(out, "SERVFAIL") {
		t.Errorf("a name outside: %v, %s", err, out)
	}
	b.untilNamed("web.default.svc.cluster.local", "10.96.0.20")
	a.start(up...)
	a.untilNamed("registry.example.com", "192.0.2.10")
}

// untilNamed waits until a name has an address where `portico dns query` asks.
func (h *host) untilNamed(name, addr string, flags ...string) {
	h.Helper()
	h.until(name+" is "+addr, func() error {
		out, err := h.run(append([]string{"dns", "query", name, "A"}, flags...)...)
		if err == nil && !strings.Contains(out, addr) {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
}

// queries is how many the host's server has answered, by its metrics.
func (h *host) queries() (n int) {
	h.Helper()
	var conn net.Conn
	if err := h.Do(func() (err error) {
		conn, err = net.Dial("tcp", "127.0.0.1:10249")
		return err
	}); err != nil {
		h.Fatal(err)
	}
	defer conn.Close()
	request, err := http.NewRequest(http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		h.Fatal(err)
	}
	request.Close = true
	if err := request.Write(conn); err != nil {
		h.Fatal(err)
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var of int
		if name, value, _ := strings.Cut(lines.Text(), "} "); strings.HasPrefix(name, "portico_dns_queries_total{") {
			if _, err := fmt.Sscan(value, &of); err != nil {
				h.Fatal(err)
			}
			n += of
		}
	}
	if err := lines.Err(); err != nil {
		h.Fatal(err)
	}
	return n
}
