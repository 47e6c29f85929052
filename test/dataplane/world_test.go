package dataplane

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/test/rig"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

var (
	serviceRanges  = prefixes("10.96.0.0/12", "fd00:10:96::/112")
	workloadRanges = prefixes("10.244.0.0/16", "10.245.0.0/16", "fd00:10:244::/56", "fd00:10:245::/64")
)

// dual is an address pair; of gives the one of a family.
type dual struct{ v4, v6 netip.Addr }

func pair(v4, v6 string) dual { return dual{addr(v4), addr(v6)} }

func (d dual) of(v6 bool) netip.Addr {
	if v6 {
		return d.v6
	}
	return d.v4
}

var (
	nodeAddr   = pair("192.0.2.1", "2001:db8::1")
	otherAddr  = pair("192.0.2.2", "2001:db8::2")
	clientAddr = pair("192.0.2.9", "2001:db8::9")
	porticoIP  = pair("10.244.0.1", "fd00:10:244::1")
	guestA     = pair("10.245.0.2", "fd00:10:245::2")
	guestB     = pair("10.245.0.3", "fd00:10:245::3")
	externalIP = pair("198.51.100.1", "2001:db8:1::1")
	balancerIP = pair("198.51.100.2", "2001:db8:1::2")
	guestC     = pair("10.245.0.4", "fd00:10:245::4") // on the other node
)

// world is the node under test with guests a and b, another node with guest c,
// and a client outside, all on one LAN: answers that don't go back through the
// node reach the client directly, from an address that it doesn't know.
type world struct {
	t                *testing.T
	node, other      *rig.Node
	a, b, c, outside *rig.Host

	lastPort uint16 // of a client, see fresh
	config   nftables.Config
	plane    *dataplane.Plane
	backend  dataplane.Backend
	stop     func() // the program, without cleaning up
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, lastPort: 10000}
	lan := rig.NewLAN(t)
	w.node = rig.NewNode(t, rig.NodeConfig{Name: "node", Pods: prefixes("10.244.0.0/24", "fd00:10:244::/64"), Services: serviceRanges})
	w.other = rig.NewNode(t, rig.NodeConfig{Name: "other", Pods: prefixes("10.244.1.0/24", "fd00:10:244:1::/64")})
	w.outside = rig.NewHost(t, "outside")
	for h, d := range map[*rig.Host]dual{w.node.Host: nodeAddr, w.other.Host: otherAddr, w.outside: clientAddr} {
		lan.Connect(t, h, netip.PrefixFrom(d.v4, 24), netip.PrefixFrom(d.v6, 64))
	}
	w.a = w.node.Guest(t, "a", guestA.v4, guestA.v6)
	w.b = w.node.Guest(t, "b", guestB.v4, guestB.v6)
	w.c = w.other.Guest(t, "c", guestC.v4, guestC.v6)
	route := func(h *rig.Host, via dual, to ...netip.Prefix) {
		for _, p := range to {
			if err := h.AddRoute(rig.Route{To: p, Link: rig.Uplink, Via: via.of(p.Addr().Is6())}); err != nil {
				t.Fatal(err)
			}
		}
	}
	host := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	route(w.node.Host, otherAddr, host(guestC.v4), host(guestC.v6))
	route(w.other.Host, nodeAddr, host(guestA.v4), host(guestA.v6), host(guestB.v4), host(guestB.v6))
	route(w.other.Host, nodeAddr, prefixes("10.244.0.0/24", "fd00:10:244::/64")...)
	route(w.outside, nodeAddr, serviceRanges...)
	for _, a := range []dual{externalIP, balancerIP} {
		route(w.outside, nodeAddr, host(a.v4), host(a.v6))
		route(w.node.Host, clientAddr, host(a.v4), host(a.v6)) // as a default route would
	}
	w.config = nftables.Config{WorkloadRanges: workloadRanges, HairpinSources: w.node.PorticoAddrs}
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start starts the program on the node.
func (w *world) start() {
	w.t.Helper()
	err := w.node.Do(func() (err error) {
		w.backend, err = nftables.New(w.config)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	w.plane = dataplane.New(w.backend, dataplane.Options{NodeAddresses: []netip.Addr{nodeAddr.v4, nodeAddr.v6}, ServiceRanges: serviceRanges, Logger: log})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	plane, backend := w.plane, w.backend
	go func() {
		defer close(done)
		if err := plane.Run(ctx); err != nil {
			w.t.Errorf("run: %v", err)
		}
	}()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-done
		if err := backend.Close(); err != nil {
			w.t.Errorf("close: %v", err)
		}
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// replace and update hand views to the program and wait for the kernel.
func (w *world) replace(views ...catalog.View) {
	w.t.Helper()
	w.plane.Replace(&catalog.Node{Name: "node"}, views)
	w.settled()
}

func (w *world) update(views ...catalog.View) {
	w.t.Helper()
	w.plane.Update(views)
	w.settled()
}

func (w *world) settled() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.plane.Wait(ctx); err != nil {
		w.t.Fatalf("the kernel didn't take the change: %v", err)
	}
}

// verify reads the kernel back.
func (w *world) verify() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	words, err := w.plane.Verify(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range words {
		w.t.Errorf("the kernel differs: %s", d)
	}
}

// service describes a Service for tests: one port number, TCP and
// UDP or TCP alone.
type service struct {
	name     string
	ip       dual
	port     uint16
	nodePort uint16
	tcpOnly  bool
	affinity time.Duration
	external []dual // external IPs
	balancer []dual // load-balancer addresses
	ranges   []netip.Prefix
	// traffic policies Local
	externalLocal, internalLocal bool
	endpoints                    []endpoint
}

type endpoint struct {
	at    dual
	port  uint16
	node  string
	state state
}

type state uint8

const (
	ready state = iota
	notReady
	terminating // and still serving
)

// view gives the Service as the agent would: one slice per family and target
// port, since a slice's endpoints share their ports.
func (s service) view() catalog.View {
	name := types.NamespacedName{Namespace: "default", Name: s.name}
	svc := &catalog.Service{
		Name: name, UID: types.UID(s.name), Type: corev1.ServiceTypeNodePort, ClusterIPs: []netip.Addr{s.ip.v4, s.ip.v6}, HasSelector: true,
		Ports: []catalog.ServicePort{
			{Name: "t", Protocol: catalog.TCP, Port: s.port, NodePort: s.nodePort},
			{Name: "u", Protocol: catalog.UDP, Port: s.port, NodePort: s.nodePort},
		},
	}
	svc.Affinity, svc.SourceRanges = s.affinity, s.ranges
	svc.ExternalLocal, svc.InternalLocal = s.externalLocal, s.internalLocal
	for _, v6 := range []bool{false, true} {
		for _, a := range s.external {
			svc.ExternalIPs = append(svc.ExternalIPs, a.of(v6))
		}
		for _, a := range s.balancer {
			svc.Ingress = append(svc.Ingress, catalog.Ingress{IP: a.of(v6)})
		}
	}
	if s.tcpOnly {
		svc.Ports = svc.Ports[:1]
	}
	v := catalog.View{Name: name, Service: svc}
	for _, v6 := range []bool{false, true} {
		slices := map[uint16]*catalog.Slice{}
		for _, e := range s.endpoints {
			sl := slices[e.port]
			if sl == nil {
				sl = &catalog.Slice{Service: name, IPv6: v6, Ports: []catalog.SlicePort{
					{Name: "t", Protocol: catalog.TCP, Port: e.port}, {Name: "u", Protocol: catalog.UDP, Port: e.port},
				}}
				slices[e.port] = sl
				v.Slices = append(v.Slices, sl)
			}
			sl.Endpoints = append(sl.Endpoints, catalog.Endpoint{
				Addr: e.at.of(v6), Node: e.node, Ready: e.state == ready, Serving: e.state != notReady, Terminating: e.state == terminating,
			})
		}
	}
	return v
}

func (s service) gone() catalog.View {
	return catalog.View{Name: types.NamespacedName{Namespace: "default", Name: s.name}}
}

// with gives the Service with other endpoints.
func (s service) with(e ...endpoint) service {
	s.endpoints = e
	return s
}

func onNode(at dual, port uint16) endpoint { return endpoint{at: at, port: port, node: "node"} }

func onOther(at dual, port uint16) endpoint          { return endpoint{at: at, port: port, node: "other"} }
func (e endpoint) in(s state) endpoint               { e.state = s; return e }
func (e endpoint) addr(v6 bool) netip.AddrPort       { return netip.AddrPortFrom(e.at.of(v6), e.port) }
func (d dual) port(v6 bool, p uint16) netip.AddrPort { return netip.AddrPortFrom(d.of(v6), p) }

// serve starts servers on both protocols and families behind an endpoint.
func (w *world) serve(h *rig.Host, e endpoint) {
	w.t.Helper()
	for _, v6 := range []bool{false, true} {
		h.ServeTCP(w.t, e.addr(v6))
		h.ServeUDP(w.t, e.addr(v6))
	}
}

// each runs f for both protocols and families.
func each(t *testing.T, f func(t *testing.T, network string, v6 bool)) {
	for _, network := range []string{"tcp", "udp"} {
		for _, v6 := range []bool{false, true} {
			name := network + "4"
			if v6 {
				name = network + "6"
			}
			t.Run(name, func(t *testing.T) { f(t, network, v6) })
		}
	}
}
