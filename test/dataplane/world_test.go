package dataplane

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/iptables"
	"portico.dev/portico/internal/dataplane/ipvs"
	"portico.dev/portico/internal/dataplane/nftables"
	"portico.dev/portico/internal/dataplane/userspace"
	"portico.dev/portico/test/rig"
	"portico.dev/portico/test/rig/scene"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// dual is an address pair; of gives the one of a family.
type dual struct{ v4, v6 netip.Addr }

func pair(v4, v6 string) dual { return dual{addr(v4), addr(v6)} }

func (d dual) of(v6 bool) netip.Addr {
	if v6 {
		return d.v6
	}
	return d.v4
}

// tests gives a pair of the scene as tests write it.
func tests(d scene.Dual) dual { return dual{d.V4, d.V6} }

// plan names the scene's addresses as tests use them.
var (
	plan           = scene.Addresses()
	serviceRanges  = plan.Services
	workloadRanges = plan.Workloads
	nodeAddr       = tests(plan.Node)
	otherAddr      = tests(plan.Other)
	clientAddr     = tests(plan.Outside)
	porticoIP      = tests(plan.Portico)
	guestA         = tests(plan.GuestA)
	guestB         = tests(plan.GuestB)
	externalIP     = tests(plan.External)
	balancerIP     = tests(plan.Balancer)
	guestC         = tests(plan.GuestC) // on the other node
)

// world is the scene with the program on its node.
type world struct {
	t                *testing.T
	scene            *scene.Scene
	node, other      *rig.Node
	a, b, c, outside *rig.Host

	lastPort uint16 // of a client, see fresh
	config   nftables.Config
	// of iptables
	localNodePorts bool

	plane   *dataplane.Plane
	backend dataplane.Backend
	stop    func() // the program, without cleaning up
}

// technique is the back end that the suite runs on.
var technique = cmp.Or(os.Getenv("PORTICO_TEST_DATAPLANE"), nftablesTechnique)

const (
	nftablesTechnique  = "nftables"
	userspaceTechnique = "userspace"
	ipvsTechnique      = "ipvs"
	iptablesTechnique  = "iptables" // in the variant of PORTICO_TEST_IPTABLES, legacy or nft
)

// place is where a back end runs, and how.
type place struct {
	config         nftables.Config // of the others too: ranges and the node's own addresses
	localNodePorts bool
	log            *slog.Logger
	enter          func(func() error) error // the node's network namespace
}

// open opens the back end, in the network namespace of the calling thread.
func (p place) open() (dataplane.Backend, error) {
	ranges, own, variant := p.config.WorkloadRanges, p.config.HairpinSources, os.Getenv("PORTICO_TEST_IPTABLES")
	switch technique {
	case nftablesTechnique:
		var err error
		if p.config.Ahead, err = nftables.ReadAhead(); err != nil {
			return nil, err
		}
		return nftables.New(p.config)
	case userspaceTechnique:
		return userspace.New(userspace.Config{Workloads: ranges, Addresses: own, Logger: p.log, Enter: p.enter})
	case ipvsTechnique:
		return ipvs.New(ipvs.Config{
			Workloads: ranges, Addresses: own, MarkBit: iptables.DefaultMasqueradeBit,
			Scheduler: os.Getenv("PORTICO_TEST_IPVS_SCHEDULER"), Logger: p.log, Enter: p.enter,
		})
	case iptablesTechnique:
		return iptables.New(iptables.Config{
			WorkloadRanges: ranges, HairpinSources: own, MasqueradeBit: iptables.DefaultMasqueradeBit,
			LocalNodePorts: p.localNodePorts, Variant: variant, Logger: p.log, Enter: p.enter,
		})
	}
	return nil, fmt.Errorf("PORTICO_TEST_DATAPLANE names the unknown technique %q", technique)
}

// keepsClients tells whether backends see who asks, wherever answers come back.
func keepsClients() bool { return technique != userspaceTechnique }

// newScene makes a world whose node runs nothing.
func newScene(t *testing.T) *world {
	t.Helper()
	skipExempt(t)
	s := scene.New(t)
	w := &world{t: t, scene: s, node: s.Node, other: s.Other, a: s.A, b: s.B, c: s.C, outside: s.Outside, lastPort: 10000}
	w.config = nftables.Config{WorkloadRanges: workloadRanges, HairpinSources: w.node.PorticoAddrs}
	return w
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := newScene(t)
	w.start()
	t.Cleanup(func() { w.stop() })
	return w
}

// start starts the program on the node.
func (w *world) start() {
	w.t.Helper()
	err := w.node.Do(func() (err error) {
		w.backend, err = place{w.config, w.localNodePorts, w.log(), w.node.Do}.open()
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	log := w.log()
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

func (w *world) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
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
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := w.plane.Wait(ctx); err != nil {
		w.t.Fatalf("the kernel didn't take the change: %v", err)
	}
}

// verify reads the kernel back.
func (w *world) verify() {
	w.t.Helper()
	for _, d := range w.differences() {
		w.t.Errorf("the kernel differs: %s", d)
	}
}

// differences are those of the kernel and the plan.
func (w *world) differences() []string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	words, err := w.plane.Verify(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return words
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
