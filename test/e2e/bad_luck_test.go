package e2e

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"portico.dev/portico/test/world"
)

// One house for all: guests take seconds to boot. The order matters only in that the
// address changes last.
func TestBadLuck(t *testing.T) {
	h := newHouse(t)
	for _, story := range []struct {
		name string
		tell func(*house)
	}{
		{"a guest keeps the variables of its start", environmentKept},
		{"the daemon is killed again and again", daemonKilled},
		{"somebody removes rules, addresses, routes and links", kernelChanged},
		{"a guest crashes", guestCrashes},
		{"the node gets another address", addressChanges},
	} {
		t.Run(story.name, func(t *testing.T) {
			part := *h
			part.T = t
			story.tell(&part)
		})
	}
}

// ENV-01: a guest is told of the Services that are there when it starts, and of none
// that comes later.
func environmentKept(h *house) {
	env := func() string {
		h.Helper()
		out, err := h.Quiet(h.ctx, "env", "-n", namespace, "--vm", "web-1")
		h.must(err)
		return strings.TrimSpace(out)
	}
	told := func() string {
		h.Helper()
		address := h.kubectl("get", "vmi", "web-1", "-o", "jsonpath={.status.interfaces[0].ipAddress}")
		out, err := h.In(h.ctx, h.Node, "curl", "-gsf", "-m", "5", "http://"+address+":9376/environment").Output()
		h.must(err)
		return strings.TrimSpace(string(out))
	}
	before := env()
	if !strings.Contains(before, "\nWEB_SERVICE_PORT=80\n") || !strings.Contains(before, "KUBERNETES_SERVICE_HOST=10.96.0.1\n") {
		h.Errorf("the Services are described as:\n%s", before)
	}
	if got := told(); got != before {
		h.Errorf("the guest was told:\n%s\nwant:\n%s", got, before)
	}
	h.kubectl("create", "service", "clusterip", "later", "--tcp=80")
	defer h.kubectl("delete", "service", "later")
	if got := env(); !strings.Contains(got, "LATER_SERVICE_HOST=") {
		h.Errorf("a guest that starts now isn't told of a new Service:\n%s", got)
	}
	if got := told(); got != before {
		h.Errorf("the running guest's variables changed to:\n%s", got)
	}
}

// DP-18, VM-06, ALLOC-03: whenever the daemon dies, packets and guests go on, and
// what was begun converges.
func daemonKilled(h *house) {
	kills := 3
	if long() {
		kills = 20
	}
	before := []int{h.qemu("web-1"), h.qemu("web-2")}
	stop := make(chan struct{})
	var churn sync.WaitGroup
	churn.Go(func() { h.churn(stop) })
	h.during(func() {
		for range kills {
			time.Sleep(time.Duration(rand.Int64N(int64(3 * time.Second)))) // any moment will do
			h.must(h.Kill())
			h.must(h.Launch())
		}
		h.must(h.Ready(h.ctx))
		close(stop)
		churn.Wait()
	})
	if after := []int{h.qemu("web-1"), h.qemu("web-2")}; after[0] != before[0] || after[1] != before[1] {
		h.Errorf("guests ran as processes %v, now %v", before, after)
	}
	h.kubectl("delete", "vm", "churn", "--ignore-not-found", "--timeout=60s")
	h.kubectl("delete", "service", "churn", "--ignore-not-found")
	h.must(h.Until(h.ctx, "two links are left", func() error {
		out, err := h.In(h.ctx, h.Node, "ip", "-o", "link", "show", "type", "tun").Output()
		if n := strings.Count(string(out), "\n"); err == nil && n != 2 {
			err = fmt.Errorf("there are %d: %s", n, out)
		}
		return err
	}))
}

// churn makes and removes a machine and a Service until stop; what fails because
// nobody listens is part of it.
func (h *house) churn(stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if i%2 == 0 {
			h.Quiet(h.ctx, "kubectl", "-n", namespace, "create", "service", "nodeport", "churn", "--tcp=80")    //nolint:errcheck // see above
			h.Quiet(h.ctx, "kubectl", "-n", namespace, "apply", "-f", h.file(machine("churn", "Always", "no"))) //nolint:errcheck // see above
			h.Quiet(h.ctx, "vm", "restart", "churn", "-n", namespace)                                           //nolint:errcheck // see above
		} else {
			h.Quiet(h.ctx, "kubectl", "-n", namespace, "delete", "service", "churn")            //nolint:errcheck // see above
			h.Quiet(h.ctx, "kubectl", "-n", namespace, "delete", "vm", "churn", "--wait=false") //nolint:errcheck // see above
		}
	}
}

// DP-19: what others remove is back. The bound is far above the figures that the log
// shows, because tests share their host.
func kernelChanged(h *house) {
	for _, change := range []string{
		"nft flush ruleset",
		"nft delete table ip portico",
		"nft delete table inet portico-routes",
		"ip link set portico0 down",
		"ip link del portico0",
		"ip addr flush dev portico0",
		"ip route flush table main proto 112",
		"ip -6 route flush table main proto 112",
		"sysctl -qw net.ipv4.conf.uplink.forwarding=0",
	} {
		h.onNode(strings.Fields(change)...)
		begin := time.Now()
		for _, host := range []string{world.NodeIPv4, "[" + world.NodeIPv6 + "]"} {
			h.answers(host)
		}
		took := time.Since(begin)
		h.Logf("%-45s answered after %v", change, took.Round(time.Millisecond))
		if took > 10*time.Second {
			h.Errorf("after %q it took %v until the node port answered", change, took)
		}
	}
	h.onNode("sh", "-c", "ip link show portico0 && nft list table inet portico-routes && nft list table ip portico")
}

// answers waits until the node port answers a client outside.
func (h *house) answers(host string) {
	h.Helper()
	h.must(h.Until(h.ctx, "the node port of "+host+" answers", func() error {
		return h.In(h.ctx, h.Client, "curl", "-gsf", "--connect-timeout", "1", "-m", "3", "-o", "/dev/null", fmt.Sprintf("http://%s:%d/", host, nodePort)).Run()
	}))
}

// VM-06, DP-11: a guest that crashes leaves the Service, and starts again.
func guestCrashes(h *house) {
	was := h.qemu("web-2")
	h.must(syscall.Kill(was, syscall.SIGKILL))
	h.must(h.Until(h.ctx, "the guest is out of the Service", func() error {
		out := h.kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=web", "-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}")
		if n := len(strings.Fields(out)); n > 2 { // one of each family
			return fmt.Errorf("its endpoints are %s", out)
		}
		return nil
	}))
	h.during(func() { h.ready("web-2") })
	if h.qemu("web-2") == was {
		h.Error("it runs as the same process")
	}
}

// NET-04: node ports, the Node and its door follow the node's address.
func addressChanges(h *house) {
	const next = "192.0.2.77"
	h.onNode("sysctl", "-qw", "net.ipv4.conf.uplink.promote_secondaries=1")
	h.onNode("ip", "addr", "add", next+"/24", "dev", "uplink")
	h.onNode("ip", "addr", "del", world.NodeIPv4+"/24", "dev", "uplink")
	h.onNode("ip", "route", "replace", "default", "via", world.ClientIPv4)
	h.answers(next)
	h.must(h.Until(h.ctx, "the Node has its new address", func() error {
		if out := h.kubectl("get", "node", "-o", "jsonpath={.items[0].status.addresses[*].address}"); !strings.Contains(out, next) || strings.Contains(out, world.NodeIPv4+" ") {
			return fmt.Errorf("it has %s", out)
		}
		return nil
	}))
	// The door is open there: it asks for a certificate, and refuses who has none.
	out, _ := h.In(h.ctx, h.Client, "curl", "-ks", "-m", "2", "-o", "/dev/null", "-w", "%{remote_ip} %{time_appconnect}", "https://"+next+":10250/healthz").Output()
	if f := strings.Fields(string(out)); len(f) != 2 || f[0] != next || f[1] == "0.000000" {
		h.Errorf("the door does not answer at the new address: %s", out)
	}
}
