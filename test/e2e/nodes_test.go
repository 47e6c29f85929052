package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/test/guest"
	"portico.dev/portico/test/rig"
)

// Two nodes with the real program each, a pod on each as a CNI plugin would lay it, and a
// client outside:
//
//	pod a 10.244.x.7                      pod b 10.244.y.7
//	      |                                     |
//	   node a 192.0.2.1                      node b 203.0.113.2, or 192.0.2.3
//	      |                                     |
//	 =====+=== LAN ===+======== router =========+
//	                  |
//	          client 192.0.2.9
type pair struct {
	*testing.T
	ctx            context.Context
	program        string
	dir            string
	a, b           *rig.Host
	router, client *rig.Host
	podA, podB     *rig.Host
	atA, atB       []netip.Addr // of the pods
	far            bool         // b is behind the router
	stopA, stopB   func()
	vmB            string // --vm of b
	addrB          []netip.Addr
}

var addrA = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

func newPair(t *testing.T, far bool) *pair {
	rig.Need(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft; `make deps` installs it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	t.Cleanup(cancel)
	p := &pair{T: t, ctx: ctx, dir: t.TempDir(), far: far, vmB: "off"}
	self, err := os.Executable()
	p.must(err)
	p.program = filepath.Join(p.dir, "portico")
	p.must(os.Symlink(self, p.program))
	lan := rig.NewLAN(t)
	p.a, p.b, p.router, p.client = rig.NewHost(t, "a"), rig.NewHost(t, "b"), rig.NewHost(t, "router"), rig.NewHost(t, "client")
	p.must(p.router.Forward())
	lan.Connect(t, p.a, cidrs("192.0.2.1/24", "2001:db8::1/64")...)
	lan.Connect(t, p.client, cidrs("192.0.2.9/24", "2001:db8::9/64")...)
	lan.Connect(t, p.router, cidrs("192.0.2.254/24", "2001:db8::254/64")...)
	gateB := []string{"192.0.2.254", "2001:db8::254"}
	if far {
		p.must(rig.Wire(p.router, "far", p.b, rig.Uplink))
		gateB = []string{"203.0.113.254", "2001:db8:2::254"}
		for i, c := range cidrs("203.0.113.2/24", "2001:db8:2::2/64") {
			p.must(p.b.AddAddr(rig.Uplink, c))
			p.must(p.router.AddAddr("far", netip.PrefixFrom(netip.MustParseAddr(gateB[i]), c.Bits())))
			p.addrB = append(p.addrB, c.Addr())
		}
	} else {
		lan.Connect(t, p.b, cidrs("192.0.2.3/24", "2001:db8::3/64")...)
		p.addrB = []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")}
	}
	for i, to := range cidrs("0.0.0.0/0", "::/0") {
		for _, h := range []*rig.Host{p.a, p.client} {
			p.must(h.AddRoute(rig.Route{To: to, Link: rig.Uplink, Via: netip.MustParseAddr([]string{"192.0.2.254", "2001:db8::254"}[i])}))
		}
		p.must(p.b.AddRoute(rig.Route{To: to, Link: rig.Uplink, Via: netip.MustParseAddr(gateB[i])}))
	}
	return p
}

func cidrs(s ...string) (out []netip.Prefix) {
	for _, c := range s {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			panic(err)
		}
		out = append(out, p)
	}
	return out
}

func (p *pair) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *pair) data(h *rig.Host) string       { return filepath.Join(p.dir, h.Name) }
func (p *pair) kubeconfig(h *rig.Host) string { return filepath.Join(p.dir, h.Name+".kubeconfig") }

// start runs the program on a host until the test ends, and tells how to end it before.
func (p *pair) start(h *rig.Host, args ...string) (stop func()) {
	p.Helper()
	log, err := os.Create(filepath.Join(p.dir, h.Name+".log"))
	p.must(err)
	cmd := exec.Command(p.program, append(args, "--data-dir", p.data(h), "--node-name", h.Name, "--dataplane", "nftables")...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "HOME="+p.dir)
	p.must(h.Do(cmd.Start))
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(os.Interrupt) // it may have ended
		late := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		if err := cmd.Wait(); err != nil {
			p.Errorf("%s: %v", h.Name, err)
		}
	}
	p.Cleanup(func() {
		stop()
		if p.Failed() {
			raw, _ := os.ReadFile(log.Name())
			lines := strings.Split(string(raw), "\n")
			p.Logf("the end of %s's log:\n%s", h.Name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
		}
		log.Close()
	})
	return stop
}

// portico runs a command on node a; it has to succeed.
func (p *pair) portico(args ...string) string {
	p.Helper()
	out, err := p.a.Run(p.program, args...)
	p.must(err)
	return out
}

func (p *pair) kubectl(args ...string) string {
	p.Helper()
	return p.portico(append([]string{"kubectl", "--kubeconfig", p.kubeconfig(p.a)}, args...)...)
}

func (p *pair) until(what string, ok func() error) {
	p.Helper()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-p.ctx.Done():
			p.Fatalf("waited in vain until %s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// startBoth runs `portico up` on a and `portico agent` on b, and makes a pod on each.
func (p *pair) startBoth() {
	p.Helper()
	p.stopA = p.start(p.a, "up", "--advertise-address", "192.0.2.1", "--vm", "off")
	own := filepath.Join(p.data(p.a), "kubeconfig")
	p.until("the API answers on the LAN", func() error {
		_, err := p.a.Run(p.program, "kubectl", "--kubeconfig", own, "get", "--raw", "/readyz")
		return err
	})
	raw, err := os.ReadFile(own)
	p.must(err)
	p.must(os.WriteFile(p.kubeconfig(p.a), raw, 0o600))
	p.must(os.WriteFile(p.kubeconfig(p.b), []byte(strings.ReplaceAll(string(raw), "127.0.0.1", "192.0.2.1")), 0o600))
	p.stopB = p.start(p.b, "agent", "--kubeconfig", p.kubeconfig(p.b), "--vm", p.vmB)
	for _, h := range []*rig.Host{p.a, p.b} {
		p.until(h.Name+" is Ready", func() error {
			out, err := p.a.Run(p.program, "kubectl", "--kubeconfig", p.kubeconfig(p.a), "wait", "--for=condition=Ready", "--timeout=20s", "node/"+h.Name)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	p.podA, p.atA = p.pod(p.a)
	p.podB, p.atB = p.pod(p.b)
}

// pod makes a pod on a node, as a CNI plugin would.
func (p *pair) pod(on *rig.Host) (pod *rig.Host, at []netip.Addr) {
	p.Helper()
	pod = rig.NewHost(p.T, "pod-"+on.Name)
	p.must(rig.Wire(on, "cni0", pod, "eth0"))
	for _, key := range []string{"net/ipv4/conf/cni0/forwarding", "net/ipv6/conf/cni0/forwarding", "net/ipv6/conf/cni0/force_forwarding"} {
		if err := on.Sysctl(key, "1"); err != nil && !os.IsNotExist(err) {
			p.Fatal(err)
		}
	}
	gates := cidrs("169.254.1.1/32", "fe80::1/64")
	words := strings.Fields(p.kubectl("get", "node", on.Name, "-o", "jsonpath={.spec.podCIDRs[0]} {.spec.podCIDRs[1]}"))
	for i, r := range cidrs(words...) {
		a := r.Addr()
		for range 7 {
			a = a.Next()
		}
		at = append(at, a)
		one := netip.PrefixFrom(a, a.BitLen())
		p.must(on.AddAddr("cni0", gates[i]))
		p.must(pod.AddAddr("eth0", one))
		p.must(on.AddRoute(rig.Route{To: one, Link: "cni0"}))
		p.must(pod.AddRoute(rig.Route{To: cidrs("0.0.0.0/0", "::/0")[i], Link: "eth0", Via: gates[i].Addr(), OnLink: i == 0}))
		pod.ServeTCP(p.T, netip.AddrPortFrom(a, 8080))
		pod.ServeUDP(p.T, netip.AddrPortFrom(a, 8080))
	}
	return pod, at
}

// service makes a Service with endpoints written by hand; hints say for which zone each is.
func (p *pair) service(name string, number int, spec string, endpoints string) {
	p.Helper()
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  clusterIP: 10.96.0.%[2]d
  clusterIPs: [10.96.0.%[2]d, "fd00:10:96::%[2]d"]
  ports: [{name: t, port: 80, nodePort: %[3]d, protocol: TCP}, {name: u, port: 80, nodePort: %[3]d, protocol: UDP}]
%[4]s
`, name, number, 30000+number, spec)
	for i, family := range []string{"IPv4", "IPv6"} {
		manifest += fmt.Sprintf(`---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-%[2]d, labels: {kubernetes.io/service-name: %[1]s}}
addressType: %[3]s
ports: [{name: t, port: 8080, protocol: TCP}, {name: u, port: 8080, protocol: UDP}]
endpoints:
%[4]s
`, name, i, family, strings.NewReplacer("POD-A", p.atA[i].String(), "POD-B", p.atB[i].String()).Replace(endpoints))
	}
	file := filepath.Join(p.dir, name+".yaml")
	p.must(os.WriteFile(file, []byte(manifest), 0o600))
	p.kubectl("apply", "-f", file)
}

const onA, onB = `- {addresses: ["POD-A"], nodeName: a, conditions: {ready: true}, hints: {forZones: [{name: z1}]}}
`, `- {addresses: ["POD-B"], nodeName: b, conditions: {ready: true}, hints: {forZones: [{name: z2}]}}
`

// asks makes exchanges of both protocols and families; check judges each answer, or the
// error of one that should get none.
func (p *pair) asks(who string, from *rig.Host, to []netip.Addr, port uint16, check func(ipv6 bool, a rig.Answer, err error) error) {
	p.Helper()
	for i, at := range to {
		for _, network := range []string{"tcp", "udp"} {
			late := time.Now().Add(30 * time.Second) // all is programmed by then
			var err error
			p.until(fmt.Sprintf("%s, %s to %v", who, network, netip.AddrPortFrom(at, port)), func() error {
				a, e := from.Ask(network, netip.AddrPortFrom(at, port))
				if err = check(i == 1, a, e); err != nil && time.Now().After(late) {
					p.Errorf("%s, %s to %v: %v", who, network, netip.AddrPortFrom(at, port), err)
					return nil
				}
				return err
			})
		}
	}
}

// from wants an answer of a pod that sees one of the clients.
func from(server []netip.Addr, clients ...[]netip.Addr) func(bool, rig.Answer, error) error {
	return func(ipv6 bool, a rig.Answer, err error) error {
		if err != nil {
			return err
		}
		i := 0
		if ipv6 {
			i = 1
		}
		for _, c := range clients {
			if a.Server.Addr() == server[i] && a.Client.Addr() == c[i] {
				return nil
			}
		}
		return fmt.Errorf("%v answered and saw %v; want %v, seeing one of %v", a.Server, a.Client, server[i], clients)
	}
}

// DP-01, DP-07 and DP-12 across nodes, with two real processes: pods of one node from
// pods and the node of the other, and Services whose backends are on another node.
func TestTwoNodes(t *testing.T) {
	for name, far := range map[string]bool{"on one link": false, "behind a router": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, far)
			p.startBoth()
			p.kubectl("label", "node", "a", "topology.kubernetes.io/zone=z1")
			p.kubectl("label", "node", "b", "topology.kubernetes.io/zone=z2")
			p.service("cluster", 21, "  externalTrafficPolicy: Cluster", onB)
			p.service("local", 22, "  externalTrafficPolicy: Local", onB)
			p.service("zones", 23, "  externalTrafficPolicy: Cluster", onA+onB)
			p.nodesReach()
			p.servicesReach()
			p.shown()
			p.goes()
		})
	}
}

// own are the addresses of a node on portico0.
func own(pod []netip.Addr) (out []netip.Addr) {
	for _, a := range pod {
		for range 6 {
			a = a.Prev()
		}
		out = append(out, a)
	}
	return out
}

func (p *pair) nodesReach() {
	p.Helper()
	p.asks("pod a to pod b", p.podA, p.atB, 8080, from(p.atB, p.atA))
	p.asks("pod b to pod a", p.podB, p.atA, 8080, from(p.atA, p.atB))
	p.asks("node a to pod b", p.a, p.atB, 8080, from(p.atB, own(p.atA)))
	p.asks("node b to pod a", p.b, p.atA, 8080, from(p.atA, own(p.atB)))
}

func (p *pair) servicesReach() {
	p.Helper()
	vip := func(n int) []netip.Addr {
		return []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.96.0.%d", n)), netip.MustParseAddr(fmt.Sprintf("fd00:10:96::%d", n))}
	}
	client := []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}
	// DP-01, DP-03: the source stays, for the answer comes back by itself.
	p.asks("pod a to a cluster IP", p.podA, vip(21), 80, from(p.atB, p.atA))
	p.asks("node a to a cluster IP", p.a, vip(21), 80, from(p.atB, own(p.atA)))
	// DP-07: policy Cluster by way of a, whose address the backend sees; policy Local
	// keeps the client's, where the backend is, and elsewhere nothing answers.
	masquerade := addrA
	if p.far {
		masquerade = own(p.atA) // the tunnel's
	}
	p.asks("client to a's node port", p.client, addrA, 30021, from(p.atB, masquerade))
	p.asks("client to b's node port, policy Local", p.client, p.addrB, 30022, from(p.atB, client))
	p.asks("client to a's node port, policy Local", p.client, addrA[:1], 30022, func(_ bool, a rig.Answer, err error) error {
		if err == nil {
			return fmt.Errorf("%v answered", a.Server)
		}
		return nil
	})
	p.asks("pod a to a's node port, policy Local", p.podA, addrA, 30022, from(p.atB, p.atA))
	// DP-12: each node keeps to its zone.
	for range 10 {
		p.asks("pod a within its zone", p.podA, vip(23), 80, from(p.atA, own(p.atA), p.atA))
		p.asks("pod b within its zone", p.podB, vip(23), 80, from(p.atB, own(p.atB), p.atB))
	}
}

// shown looks at `portico status`.
func (p *pair) shown() {
	p.Helper()
	want := "IPv4: direct by 192.0.2.3 on uplink, 1 routes, MTU 1500: 192.0.2.3 is on uplink"
	if p.far {
		want = "IPv4: vxlan by 203.0.113.2 on portico0-vxlan, 1 routes, MTU 1450: 203.0.113.2 is behind a router on uplink"
	}
	out := p.portico("status", "--data-dir", p.data(p.a))
	if !strings.Contains(out, want) || !strings.Contains(out, "b at "+p.addrB[0].String()) || !strings.Contains(out, ", Ready, seen ") || strings.Contains(out, "not all of what leads") {
		p.Errorf("want %q in\n%s", want, out)
	}
}

// goes ends both programs: packets go on until `portico down`, which leaves nothing.
func (p *pair) goes() {
	p.Helper()
	p.stopA()
	p.stopB()
	p.nodesReach()
	out, err := p.b.Run(p.program, "down", "--data-dir", p.data(p.b))
	p.must(err)
	if !strings.Contains(out, "Checked: ") || !strings.Contains(out, "link portico0-vxlan") {
		p.Errorf("portico down said\n%s", out)
	}
	for _, family := range []string{"-4", "-6"} {
		if left, err := p.b.Run("ip", family, "route", "show", "proto", "113"); err != nil || left != "" {
			p.Errorf("routes are left: %v\n%s", err, left)
		}
	}
}

// DP-01, VM-04: a real guest on the other node, behind a router, is reached from this
// node, its pods and a client of a Service here; its link has the tunnel's MTU. When it
// is stopped its routes go.
func TestGuestElsewhere(t *testing.T) {
	if !long() {
		t.Skip("a guest takes long to boot; set PORTICO_LONG=1")
	}
	p := newPair(t, true)
	cache, err := guest.CacheDir(p.ctx)
	p.must(err)
	image, err := guest.Build(p.ctx, guest.Options{Cache: cache, Logf: t.Logf})
	p.must(err)
	p.portico("image", "import", image.Archive, "--data-dir", p.data(p.b))
	p.vmB = "auto"
	p.startBoth()
	file := filepath.Join(p.dir, "guest.yaml")
	p.must(os.WriteFile(file, []byte(namespaceManifest+"---"+service+"---"+machine("web", "Always", "web")), 0o600))
	p.kubectl("apply", "-f", file)
	p.kubectl("wait", "-n", namespace, "--for=condition=Ready", "--timeout=60s", "vm/web")
	at := strings.Fields(p.kubectl("get", "vmi", "web", "-n", namespace, "-o", "jsonpath={.status.interfaces[0].ipAddresses[0]} {.status.interfaces[0].ipAddresses[1]}"))
	vip := p.kubectl("get", "service", "web", "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
	for _, h := range []*rig.Host{p.a, p.podA} {
		for _, url := range []string{"http://" + at[0] + ":9376/", "http://[" + at[1] + "]:9376/", "http://" + vip + "/"} {
			p.until(h.Name+" reaches "+url, func() error {
				out, err := h.Run("curl", "-gsf", "-m", "3", url)
				if err == nil && strings.TrimSpace(out) != "web" {
					err = fmt.Errorf("it answered %q", out)
				}
				return err
			})
		}
	}
	links, err := p.b.Run("sh", "-c", "ip -o link show type tun")
	p.must(err)
	if !strings.Contains(links, "mtu 1450") {
		p.Errorf("the guest's link has another MTU than the tunnel:\n%s", links)
	}
	p.portico("vm", "stop", "web", "-n", namespace, "--kubeconfig", p.kubeconfig(p.a))
	p.until("a's routes to the guest are gone", func() error {
		out, err := p.a.Run("sh", "-c", "ip route show proto 113; ip -6 route show proto 113")
		if err == nil && (strings.Contains(out, at[0]) || strings.Contains(out, at[1])) {
			err = fmt.Errorf("there is\n%s", out)
		}
		return err
	})
	p.stopB()
	_, err = p.b.Run(p.program, "down", "--data-dir", p.data(p.b))
	p.must(err)
}
