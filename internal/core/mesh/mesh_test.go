package mesh

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func addrs(s string) (out []netip.Addr) {
	for _, w := range strings.Fields(s) {
		out = append(out, netip.MustParseAddr(w))
	}
	return out
}

func prefixes(s string) (out []netip.Prefix) {
	for _, w := range strings.Fields(s) {
		out = append(out, netip.MustParsePrefix(w))
	}
	return out
}

func node(name, at, pods string) Node {
	return Node{Name: name, Addresses: addrs(at), PodCIDRs: prefixes(pods)}
}

func guest(name, node, at string) Guest {
	return Guest{Name: types.NamespacedName{Namespace: "default", Name: name}, Node: node, Addrs: addrs(at)}
}

// here is node a, with peers on eth0 and others behind the router on eth0.
func here(hops map[string]Hop) Here {
	h := Here{
		Node:    node("a", "192.0.2.1 2001:db8::1", "10.244.0.0/24 fd00:10:244::/64"),
		Cluster: prefixes("10.244.0.0/16 fd00:10:244::/56"), Guests: prefixes("10.245.0.0/16 fd00:10:245::/64"),
		IPv6: true, Mode: Auto, Hops: map[netip.Addr]Hop{},
	}
	for a, hop := range hops {
		h.Hops[netip.MustParseAddr(a)] = hop
	}
	return h
}

var (
	onLink = Hop{Link: "eth0", OnLink: true, MTU: 1500, LinkMTU: 1500}
	routed = Hop{Link: "eth0", MTU: 1500, LinkMTU: 1500}
)

// text writes a plan as people would.
func text(p Plan) string {
	var b strings.Builder
	for _, peer := range p.Peers {
		for _, w := range peer.Ways {
			fmt.Fprintf(&b, "%s %s: %s via %v, mtu %d, %d routes: %s\n", peer.Name, w.Family(), w.Kind, w.Via, w.MTU, w.Routes, w.Why)
		}
		for _, problem := range peer.Problems {
			fmt.Fprintf(&b, "%s: %s\n", peer.Name, problem)
		}
	}
	for _, r := range p.Routes {
		fmt.Fprintf(&b, "%s via %s dev %s src %s", r.To, r.Via, r.Link, r.Src)
		if r.MTU > 0 {
			fmt.Fprintf(&b, " mtu %d", r.MTU)
		}
		b.WriteByte('\n')
	}
	for _, t := range p.Tunnels {
		fmt.Fprintf(&b, "%s from %s mtu %d:", t.Link, t.Local, t.MTU)
		for _, r := range t.Remotes {
			fmt.Fprintf(&b, " %s%v", r.At, r.NextHops)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "mtu %d\n", p.MTU)
	return b.String()
}

// DP-01, DP-07 and DP-12 across nodes: which way leads to a node and its guests.
func TestWays(t *testing.T) {
	both := node("b", "192.0.2.2 2001:db8::2", "10.244.1.0/24 fd00:10:244:1::/64")
	guestOfB := guest("g", "b", "10.245.0.9 fd00:10:245::9")
	for _, c := range []struct {
		name   string
		here   Here
		nodes  []Node
		guests []Guest
		want   string
	}{
		{name: "alone", here: here(nil), nodes: []Node{node("a", "192.0.2.1", "10.244.0.0/24")}, want: "mtu 0\n"},
		{
			"on one link, with a guest; the tunnel is there for a peer that sees it otherwise",
			here(map[string]Hop{"192.0.2.2": onLink, "2001:db8::2": onLink}),
			[]Node{both},
			[]Guest{guestOfB},
			`
b IPv4: direct via 192.0.2.2, mtu 1500, 2 routes: 192.0.2.2 is on eth0
b IPv6: direct via 2001:db8::2, mtu 1500, 2 routes: 2001:db8::2 is on eth0
10.244.1.0/24 via 192.0.2.2 dev eth0 src 10.244.0.1
10.245.0.9/32 via 192.0.2.2 dev eth0 src 10.244.0.1
fd00:10:244:1::/64 via 2001:db8::2 dev eth0 src fd00:10:244::1
fd00:10:245::9/128 via 2001:db8::2 dev eth0 src fd00:10:244::1
portico0-vxlan from 192.0.2.1 mtu 1450: 192.0.2.2[10.244.1.1 fd00:10:244:1::1]
mtu 1500
`,
		},
		{
			"behind a router: both families inside IPv4",
			here(map[string]Hop{"192.0.2.2": routed, "2001:db8::2": routed}),
			[]Node{both},
			[]Guest{guestOfB},
			`
b IPv4: vxlan via 192.0.2.2, mtu 1450, 2 routes: 192.0.2.2 is behind a router on eth0
b IPv6: vxlan via 192.0.2.2, mtu 1450, 2 routes: 2001:db8::2 is behind a router on eth0
10.244.1.0/24 via 10.244.1.1 dev portico0-vxlan src 10.244.0.1
10.245.0.9/32 via 10.244.1.1 dev portico0-vxlan src 10.244.0.1
fd00:10:244:1::/64 via fd00:10:244:1::1 dev portico0-vxlan src fd00:10:244::1
fd00:10:245::9/128 via fd00:10:244:1::1 dev portico0-vxlan src fd00:10:244::1
portico0-vxlan from 192.0.2.1 mtu 1450: 192.0.2.2[10.244.1.1 fd00:10:244:1::1]
mtu 1450
`,
		},
		{
			"each family its own way; a peer without IPv6 addresses has an IPv6 range nevertheless",
			here(map[string]Hop{"192.0.2.2": onLink}),
			[]Node{node("b", "192.0.2.2", "10.244.1.0/24 fd00:10:244:1::/64")},
			nil, `
b IPv4: direct via 192.0.2.2, mtu 1500, 1 routes: 192.0.2.2 is on eth0
b IPv6: vxlan via 192.0.2.2, mtu 1450, 1 routes: it has no IPv6 address
10.244.1.0/24 via 192.0.2.2 dev eth0 src 10.244.0.1
fd00:10:244:1::/64 via fd00:10:244:1::1 dev portico0-vxlan src fd00:10:244::1
portico0-vxlan from 192.0.2.1 mtu 1450: 192.0.2.2[10.244.1.1 fd00:10:244:1::1]
mtu 1450
`,
		},
		{
			"a peer with IPv6 addresses only gets a tunnel of that family, the others keep theirs",
			here(map[string]Hop{"2001:db8::3": routed, "192.0.2.2": {Link: "eth1", MTU: 9000, LinkMTU: 9000}, "2001:db8::2": onLink}),
			[]Node{both, node("c", "2001:db8::3", "10.244.2.0/24")},
			nil, `
b IPv4: vxlan via 192.0.2.2, mtu 8950, 1 routes: 192.0.2.2 is behind a router on eth1
b IPv6: direct via 2001:db8::2, mtu 1500, 1 routes: 2001:db8::2 is on eth0
c IPv4: vxlan via 2001:db8::3, mtu 1430, 1 routes: it has no IPv4 address
c IPv6: none via invalid IP, mtu 0, 0 routes: it has no IPv6 pod range
10.244.1.0/24 via 10.244.1.1 dev portico0-vxlan src 10.244.0.1
10.244.2.0/24 via 10.244.2.1 dev portico0-vxlan6 src 10.244.0.1
fd00:10:244:1::/64 via 2001:db8::2 dev eth0 src fd00:10:244::1
portico0-vxlan from 192.0.2.1 mtu 8950: 192.0.2.2[10.244.1.1 fd00:10:244:1::1]
portico0-vxlan6 from 2001:db8::1 mtu 1430: 2001:db8::3[10.244.2.1]
mtu 1430
`,
		},
		{
			"the narrowest way makes the tunnel's MTU, but IPv6's least; a limit of a direct way goes to its routes",
			here(map[string]Hop{"192.0.2.2": {Link: "eth0", OnLink: true, MTU: 1400, LinkMTU: 1500}, "192.0.2.3": {Link: "ppp0", MTU: 1300, LinkMTU: 1300}}),
			[]Node{node("b", "192.0.2.2", "10.244.1.0/24"), node("c", "192.0.2.3", "10.244.2.0/24")},
			nil, `
b IPv4: direct via 192.0.2.2, mtu 1400, 1 routes: 192.0.2.2 is on eth0
b IPv6: none via invalid IP, mtu 0, 0 routes: it has no IPv6 pod range
c IPv4: vxlan via 192.0.2.3, mtu 1280, 1 routes: 192.0.2.3 is behind a router on ppp0
c IPv6: none via invalid IP, mtu 0, 0 routes: it has no IPv6 pod range
10.244.1.0/24 via 192.0.2.2 dev eth0 src 10.244.0.1 mtu 1400
10.244.2.0/24 via 10.244.2.1 dev portico0-vxlan src 10.244.0.1
portico0-vxlan from 192.0.2.1 mtu 1280: 192.0.2.2[10.244.1.1] 192.0.2.3[10.244.2.1]
mtu 1280
`,
		},
		{
			"no route now: the tunnel says so to senders",
			here(nil),
			[]Node{node("b", "192.0.2.2", "10.244.1.0/24")},
			nil, `
b IPv4: vxlan via 192.0.2.2, mtu 1450, 1 routes: 192.0.2.2 has no route
b IPv6: none via invalid IP, mtu 0, 0 routes: it has no IPv6 pod range
10.244.1.0/24 via 10.244.1.1 dev portico0-vxlan src 10.244.0.1
portico0-vxlan from 192.0.2.1 mtu 1450: 192.0.2.2[10.244.1.1]
mtu 1450
`,
		},
		{
			"a node that hasn't reported has no way",
			here(nil),
			[]Node{node("b", "", "10.244.1.0/24")},
			[]Guest{guest("g", "b", "10.245.0.9"), guest("h", "nobody", "10.245.0.8")},
			`
b IPv4: none via invalid IP, mtu 0, 0 routes: it and this node have no address of one family
b IPv6: none via invalid IP, mtu 0, 0 routes: it has no IPv6 pod range
mtu 0
`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := text(Make(c.here, c.nodes, c.guests)); got != strings.TrimPrefix(c.want, "\n") {
				t.Errorf("got\n%s\nwant%s", got, c.want)
			}
		})
	}
}

func TestModeVXLAN(t *testing.T) {
	h := here(map[string]Hop{"192.0.2.2": onLink})
	h.Mode = AlwaysVXLAN
	p := Make(h, []Node{node("b", "192.0.2.2", "10.244.1.0/24")}, nil)
	if w := p.Peers[0].Ways[0]; w.Kind != VXLAN || w.Why != "VXLAN was asked for" || p.Routes[0].Link != TunnelIPv4 {
		t.Errorf("got\n%s", text(p))
	}
}

func TestWithoutIPv6(t *testing.T) {
	h := here(map[string]Hop{"192.0.2.2": onLink, "2001:db8::2": onLink})
	h.IPv6 = false
	p := Make(h, []Node{node("b", "192.0.2.2 2001:db8::2", "10.244.1.0/24 fd00:10:244:1::/64")}, []Guest{guest("g", "b", "10.245.0.9 fd00:10:245::9")})
	for _, r := range p.Routes {
		if r.To.Addr().Is6() {
			t.Errorf("an IPv6 route: %+v", r)
		}
	}
	if len(p.Routes) != 2 || slices.ContainsFunc(p.Tunnels[0].Addrs, netip.Addr.Is6) {
		t.Errorf("got\n%s", text(p))
	}
}

// What others write into the API draws no packets that aren't theirs.
func TestClaims(t *testing.T) {
	hops := map[string]Hop{"192.0.2.2": onLink, "192.0.2.3": onLink}
	at := func(n Node, second int64) Node { n.Created = time.Unix(second, 0); return n }
	for _, c := range []struct {
		name    string
		nodes   []Node
		guests  []Guest
		routes  string // destination=next hop
		problem string
	}{
		{"a range outside the cluster's", []Node{node("b", "192.0.2.2", "8.8.8.0/24")}, nil, "", "its pod range 8.8.8.0/24 is not inside"},
		{"a range that holds the cluster's", []Node{node("b", "192.0.2.2", "10.0.0.0/8")}, nil, "", "its pod range 10.0.0.0/8 is not inside"},
		{"this node's own range", []Node{node("b", "192.0.2.2", "10.244.0.0/25")}, nil, "", "overlaps 10.244.0.0/24 of this node"},
		{
			"a range of an older node",
			[]Node{at(node("b", "192.0.2.2", "10.244.1.0/24"), 2), at(node("c", "192.0.2.3", "10.244.1.0/24"), 1)},
			nil,
			"10.244.1.0/24=192.0.2.3", "overlaps 10.244.1.0/24 of node c",
		},
		{"this node's own address", []Node{node("b", "192.0.2.1", "10.244.1.0/24")}, nil, "", "its address 192.0.2.1 is this node's own"},
		{"an address of a guest", []Node{node("b", "10.245.0.9", "10.244.1.0/24")}, nil, "", "its address 10.245.0.9 lies in a range of the cluster's own"},
		{
			"pods in others' ranges, outside all ranges, and on this node",
			[]Node{node("b", "192.0.2.2", "10.244.1.0/24"), node("c", "192.0.2.3", "10.244.2.0/24")},
			[]Guest{guest("x", "b", "10.244.0.7"), guest("y", "b", "10.244.2.7"), guest("z", "b", "192.0.2.7"), guest("w", "a", "10.245.0.7"), guest("v", "b", "10.244.1.7")},
			"10.244.1.0/24=192.0.2.2 10.244.2.0/24=192.0.2.3", "",
		},
		{
			"a pod of the cluster's range that is in no node's part",
			[]Node{node("b", "192.0.2.2", "10.244.1.0/24")},
			[]Guest{guest("x", "b", "10.244.9.7")},
			"10.244.1.0/24=192.0.2.2 10.244.9.7/32=192.0.2.2", "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Make(here(hops), c.nodes, c.guests)
			if got := destinations(p); got != c.routes {
				t.Errorf("routes %q, want %q", got, c.routes)
			}
			var problems []string
			for _, peer := range p.Peers {
				problems = append(problems, peer.Problems...)
			}
			if all := strings.Join(problems, "\n"); !strings.Contains(all, c.problem) || (c.problem == "") != (all == "") {
				t.Errorf("problems %q, want %q", all, c.problem)
			}
		})
	}
}

func destinations(p Plan) string {
	var out []string
	for _, r := range p.Routes {
		out = append(out, fmt.Sprintf("%s=%s", r.To, r.Via))
	}
	return strings.Join(out, " ")
}

// A guest's address goes where the pod is that will keep it, in whatever order the pods
// are told.
func TestMoves(t *testing.T) {
	hops := map[string]Hop{"192.0.2.2": onLink, "192.0.2.3": onLink}
	nodes := []Node{node("b", "192.0.2.2", ""), node("c", "192.0.2.3", "")}
	nodes[0].PodCIDRs, nodes[1].PodCIDRs = prefixes("10.244.1.0/24"), prefixes("10.244.2.0/24")
	old, next := guest("old", "b", "10.245.0.9"), guest("new", "c", "10.245.0.9")
	old.Since, next.Since = time.Unix(1, 0), time.Unix(2, 0)
	leaving := old
	leaving.Leaving = true
	younger := leaving
	younger.Since = time.Unix(9, 0)
	for _, c := range []struct {
		name   string
		guests []Guest
		want   string
	}{
		{"before", []Guest{old}, "192.0.2.2"},
		{"leaving, none yet elsewhere", []Guest{leaving}, "192.0.2.2"},
		{"the younger of two", []Guest{old, next}, "192.0.2.3"},
		{"the one that stays", []Guest{younger, next}, "192.0.2.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				if p := Make(here(hops), nodes, c.guests); !strings.Contains(destinations(p), "10.245.0.9/32="+c.want) {
					t.Errorf("%s, want the guest by %s", destinations(p), c.want)
				}
				slices.Reverse(c.guests)
			}
		})
	}
}

// The same values in any order give the same plan.
func TestAnyOrder(t *testing.T) {
	h := here(map[string]Hop{})
	var nodes []Node
	var guests []Guest
	for i := range 20 {
		at := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
		hop := routed
		if i%3 == 0 {
			hop = onLink
		}
		h.Hops[at] = hop
		nodes = append(nodes, Node{Name: fmt.Sprint("n", i), Addresses: []netip.Addr{at}, PodCIDRs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i / 2), 0}), 24)}})
		guests = append(guests, guest(fmt.Sprint("g", i), nodes[i/2].Name, fmt.Sprintf("10.245.0.%d", i/2)))
	}
	first := Make(h, nodes, guests)
	for range 20 {
		rand.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		rand.Shuffle(len(guests), func(i, j int) { guests[i], guests[j] = guests[j], guests[i] })
		if again := Make(h, nodes, guests); !reflect.DeepEqual(first, again) {
			t.Fatalf("got\n%s\nthen\n%s", text(first), text(again))
		}
	}
}

func TestFromPod(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "g"}, Spec: corev1.PodSpec{NodeName: "b"}}
		p.Status.Phase = corev1.PodRunning
		p.Status.PodIPs = []corev1.PodIP{{IP: "10.245.0.9"}, {IP: "nonsense"}, {IP: "fd00:10:245::9"}}
		change(p)
		return p
	}
	if g := FromPod(pod(func(*corev1.Pod) {})); g == nil || g.Node != "b" || !slices.Equal(g.Addrs, addrs("10.245.0.9 fd00:10:245::9")) {
		t.Errorf("got %+v", g)
	}
	for name, change := range map[string]func(*corev1.Pod){
		"pending":      func(p *corev1.Pod) { p.Spec.NodeName = "" },
		"succeeded":    func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
		"failed":       func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed },
		"host network": func(p *corev1.Pod) { p.Spec.HostNetwork = true },
		"no address":   func(p *corev1.Pod) { p.Status.PodIPs = nil },
	} {
		if g := FromPod(pod(change)); g != nil {
			t.Errorf("%s: got %+v", name, g)
		}
	}
}

func TestFromNode(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24", "10.244.1.7/24", "x", "fd00:10:244:1::/64"}}}
	n.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "b"},
		{Type: corev1.NodeExternalIP, Address: "203.0.113.1"},
		{Type: corev1.NodeInternalIP, Address: "127.0.0.1"},
		{Type: corev1.NodeInternalIP, Address: "192.0.2.2"},
		{Type: corev1.NodeInternalIP, Address: "192.0.2.9"},
		{Type: corev1.NodeInternalIP, Address: "2001:db8::2"},
	}
	got := FromNode(n)
	if !slices.Equal(got.Addresses, addrs("192.0.2.2 2001:db8::2")) || !slices.Equal(got.PodCIDRs, prefixes("10.244.1.0/24 fd00:10:244:1::/64")) {
		t.Errorf("got %+v", got)
	}
}
