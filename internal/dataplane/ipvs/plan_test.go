package ipvs

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

func addr(s string) netip.Addr   { return netip.MustParseAddr(s) }
func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
func tcp(s string) key           { return key{at(s), catalog.TCP} }

var (
	here  = routing.Backend{AddrPort: at("10.245.0.2:8080"), Local: true, Ready: true, Serving: true}
	there = routing.Backend{AddrPort: at("10.245.0.4:8080"), Node: "other", Ready: true, Serving: true}
	both  = &routing.Sets{Cluster: []routing.Backend{here, there}, Local: []routing.Backend{here}}
)

// verdicts gives those for inside and outside.
func verdicts(in, out routing.Action) [routing.Origins]routing.Verdict {
	return [routing.Origins]routing.Verdict{{Action: in}, {Action: in}, {Action: out}}
}

func frontend(kind routing.Kind, a string, port uint16, in, out routing.Action) *routing.Frontend {
	return &routing.Frontend{
		Key: routing.Key{Addr: addr(a), Protocol: catalog.TCP, Port: port}, Kind: kind,
		Service: types.NamespacedName{Namespace: "default", Name: "web"}, PortName: "http", Sets: both, Verdicts: verdicts(in, out),
	}
}

func with(frontends ...*routing.Frontend) *planner {
	p := newPlanner("rr", []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")})
	p.nodes, p.services = []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}, []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")}
	for _, f := range frontends {
		p.put(f.Key, f)
	}
	return p
}

// describe prints a plan, each line once and sorted.
func describe(p *planner) string {
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for of := range p.ports {
		out := p.plan(of)
		for k, w := range out.servers {
			var set []string
			for _, b := range w.set {
				set = append(set, b.String())
			}
			add("server %s %s %d: %s", k, w.scheduler, w.persistent, strings.Join(set, " "))
		}
		for k := range out.idle {
			add("idle %s", k)
		}
		for x := range out.facts {
			switch x.set {
			case routeSet:
				add("route %s", x.addressOf())
			case clusterIPsSet, doorsSet, localSet:
				add("%s %s", setNames[x.set], x.addressOf())
			case hairpinSet:
				a, _ := netip.AddrFromSlice([]byte(x.key[:len(x.key)/2]))
				add("hairpin %s", a)
			case oursSet, virtualSet: // they follow the servers
			case ledInsideMap, ledOutsideMap:
				k, _ := parseFrontendKey([]byte(x.key), x.v6)
				a, _ := netip.AddrFromSlice([]byte(x.value[:len(x.value)-4]))
				add("%s %s -> %s", setNames[x.set], k, a)
			case admittedSet:
				a, _ := netip.AddrFromSlice([]byte(x.key[:len(x.key)-12]))
				b, _ := netip.AddrFromSlice([]byte(x.value[:len(x.value)-12]))
				add("admitted %s-%s", a, b)
			default:
				k, _ := parseFrontendKey([]byte(x.key), x.v6)
				add("%s %s", setNames[x.set], k)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}

func TestPlan(t *testing.T) {
	web := frontend(routing.ClusterIP, "10.96.0.20", 80, routing.ToCluster, routing.ToCluster)
	webLocal := frontend(routing.ClusterIP, "10.96.0.20", 80, routing.ToLocal, routing.ToLocal)
	node := func(in, out routing.Action) *routing.Frontend {
		return frontend(routing.NodePort, "0.0.0.0", 30080, in, out)
	}
	sticky := func(f *routing.Frontend) *routing.Frontend {
		g := *f
		g.Affinity = time.Minute
		return &g
	}
	guarded := frontend(routing.LoadBalancerIP, "198.51.100.2", 80, routing.ToCluster, routing.ToCluster)
	guarded.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/26"), netip.MustParsePrefix("192.0.2.8/29"), netip.MustParsePrefix("2001:db8::/64")}
	chosen := frontend(routing.ClusterIP, "10.96.0.20", 80, routing.ToCluster, routing.ToCluster)
	chosen.Scheduler = "lc"
	for _, c := range []struct {
		name string
		p    *planner
		want string
	}{
		{"a node port has a virtual server at each address", with(web, node(routing.ToCluster, routing.ToCluster)), `
cluster-ips 10.96.0.20
hairpin 10.245.0.2
local-backends 10.245.0.2
server TCP 10.96.0.20:80 rr 0: 10.245.0.2:8080 10.245.0.4:8080
server TCP 192.0.2.1:30080 rr 0: 10.245.0.2:8080 10.245.0.4:8080`},
		{"external Local: the door's own is that of clients outside, others are led to the cluster IP's", with(web, node(routing.ToCluster, routing.ToLocal)), `
cluster-ips 10.96.0.20
hairpin 10.245.0.2
led-inside TCP 192.0.2.1:30080 -> 10.96.0.20
local-backends 10.245.0.2
server TCP 10.96.0.20:80 rr 0: 10.245.0.2:8080 10.245.0.4:8080
server TCP 192.0.2.1:30080 rr 0: 10.245.0.2:8080`},
		{"both Local: the cluster IP's has the other set, so there is one more", with(webLocal, node(routing.ToCluster, routing.ToLocal)), `
cluster-ips 10.96.0.20
hairpin 10.245.0.2
led-inside TCP 192.0.2.1:30080 -> 250.96.0.20
local-backends 10.245.0.2
server TCP 10.96.0.20:80 rr 0: 10.245.0.2:8080
server TCP 192.0.2.1:30080 rr 0: 10.245.0.2:8080
server TCP 250.96.0.20:80 rr 0: 10.245.0.2:8080 10.245.0.4:8080`},
		{"affinity: one virtual server for all doors", with(sticky(web), sticky(node(routing.ToCluster, routing.ToCluster))), `
cluster-ips 10.96.0.20
hairpin 10.245.0.2
idle TCP 192.0.2.1:30080
led-inside TCP 192.0.2.1:30080 -> 10.96.0.20
led-outside TCP 192.0.2.1:30080 -> 10.96.0.20
local-backends 10.245.0.2
server TCP 10.96.0.20:80 rr 60: 10.245.0.2:8080 10.245.0.4:8080`},
		{"refused and dropped", with(frontend(routing.ClusterIP, "10.96.0.20", 80, routing.Reject, routing.Reject), node(routing.ToCluster, routing.Drop)), `
cluster-ips 10.96.0.20
dropped-outside TCP 192.0.2.1:30080
hairpin 10.245.0.2
idle TCP 10.96.0.20:80
local-backends 10.245.0.2
refused-inside TCP 10.96.0.20:80
refused-outside TCP 10.96.0.20:80
server TCP 192.0.2.1:30080 rr 0: 10.245.0.2:8080 10.245.0.4:8080`},
		{"source ranges: sorted, none within another, and the address itself for the node", with(guarded), `
admitted 192.0.2.0-192.0.2.63
admitted 198.51.100.2-198.51.100.2
doors 198.51.100.2
guarded TCP 198.51.100.2:80
hairpin 10.245.0.2
local-backends 10.245.0.2
route 198.51.100.2
server TCP 198.51.100.2:80 rr 0: 10.245.0.2:8080 10.245.0.4:8080`},
		{"an excluded range is somebody else's", with(frontend(routing.ExternalIP, "203.0.113.5", 80, routing.ToCluster, routing.ToCluster)), ""},
		{"a load balancer's address that is the node's own comes before the node port", with(
			frontend(routing.LoadBalancerIP, "192.0.2.1", 30080, routing.ToLocal, routing.ToLocal), node(routing.ToCluster, routing.ToCluster)), `
doors 192.0.2.1
hairpin 10.245.0.2
local-backends 10.245.0.2
route 192.0.2.1
server TCP 192.0.2.1:30080 rr 0: 10.245.0.2:8080`},
		{"a cluster IP outside the ranges has a route of its own", with(frontend(routing.ClusterIP, "10.200.0.20", 80, routing.ToLocal, routing.ToLocal)), `
cluster-ips 10.200.0.20
hairpin 10.245.0.2
local-backends 10.245.0.2
route 10.200.0.20
server TCP 10.200.0.20:80 rr 0: 10.245.0.2:8080`},
		{"the Service's scheduler", with(chosen), `
cluster-ips 10.96.0.20
hairpin 10.245.0.2
local-backends 10.245.0.2
server TCP 10.96.0.20:80 lc 0: 10.245.0.2:8080 10.245.0.4:8080`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := describe(c.p); got != strings.TrimPrefix(c.want, "\n") {
				t.Errorf("planned:\n%s\nwant:%s", got, c.want)
			}
		})
	}
}

// DP-04: a backend that is on no node, as a hand-written slice has them, may ask itself by us.
func TestPlanNodeless(t *testing.T) {
	web := frontend(routing.ClusterIP, "10.96.0.20", 80, routing.ToCluster, routing.ToCluster)
	alone := there
	alone.Node = ""
	web.Sets = &routing.Sets{Cluster: []routing.Backend{alone}}
	if got := describe(with(web)); !strings.Contains(got, "hairpin 10.245.0.4") || strings.Contains(got, "local-backends") {
		t.Errorf("planned:\n%s", got)
	}
}

// Virtual servers of others at a door leave it to them.
func TestPlanForeign(t *testing.T) {
	p := with(frontend(routing.NodePort, "0.0.0.0", 30080, routing.ToCluster, routing.ToCluster))
	p.foreign[tcp("192.0.2.1:30080")] = true
	if got := describe(p); got != "" {
		t.Errorf("planned:\n%s", got)
	}
}

// What is taken away leaves nothing behind.
func TestPlanForgets(t *testing.T) {
	web := frontend(routing.ClusterIP, "10.96.0.20", 80, routing.ToCluster, routing.ToCluster)
	p := with(web)
	moved := *web
	moved.Service.Name = "other"
	p.put(web.Key, &moved)
	p.put(web.Key, nil)
	if len(p.frontends)+len(p.ports) != 0 {
		t.Errorf("left: %v, %v", p.frontends, p.ports)
	}
}
