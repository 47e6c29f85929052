package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"portico.dev/portico/internal/core/service"
)

// mustPools gives pools whose choices are known: always the first free of the upper
// part.
func mustPools(t *testing.T, ports string, prefixes ...string) *Pools {
	t.Helper()
	lowest := func(uint64) uint64 { return 0 }
	var ranges []*Range
	for _, p := range prefixes {
		r, err := NewRange(netip.MustParsePrefix(p), lowest)
		if err != nil {
			t.Fatal(err)
		}
		ranges = append(ranges, r)
	}
	first, last, err := ParsePortRange(ports)
	if err != nil {
		t.Fatal(err)
	}
	portRange, err := NewPortRange(first, last, lowest)
	if err != nil {
		t.Fatal(err)
	}
	pools, err := NewPools(portRange, ranges...)
	if err != nil {
		t.Fatal(err)
	}
	return pools
}

func usualPools(t *testing.T) *Pools {
	t.Helper()
	return mustPools(t, "30000-32767", "10.96.0.0/12", "fd00:10:96::/112")
}

// request reads a spec in flow style, as a user writes it, and prepares it as the API
// does; old is nil on create.
func request(t *testing.T, p *Pools, line string, old *corev1.Service) *corev1.Service {
	t.Helper()
	svc := &corev1.Service{}
	if err := yaml.UnmarshalStrict([]byte("spec: {"+line+"}"), svc); err != nil {
		t.Fatal(err)
	}
	svc.Name, svc.Namespace, svc.UID = "web", "default", "uid-1"
	if svc.Spec.Ports == nil {
		svc.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	}
	cluster := service.Cluster{Families: p.Families()}
	service.SetDefaults(svc)
	var errs field.ErrorList
	if old == nil {
		cluster.PrepareForCreate(svc)
		errs = cluster.Validate(svc)
	} else {
		svc.ResourceVersion = "1"
		cluster.PrepareForUpdate(svc, old)
		errs = cluster.ValidateUpdate(svc, old)
	}
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return svc
}

func keys(svc *corev1.Service) string {
	var out []string
	for _, c := range ServiceClaims(svc) {
		if c.Owner != svc.UID || !strings.HasPrefix(c.Key, string(c.Kind)+"/") {
			return fmt.Sprint("bad claim ", c)
		}
		out = append(out, c.Key)
	}
	return strings.Join(out, " ")
}

// API-08, ALLOC-01, ALLOC-02: what a new Service gets.
func TestAssignNew(t *testing.T) {
	for _, tc := range []struct{ name, in, want, picked string }{
		{"ClusterIP", ``, "ip/10.96.1.1", "ip/10.96.1.1"},
		{"both families", `ipFamilyPolicy: RequireDualStack`, "ip/10.96.1.1 ip/fd00:10:96::101", "ip/10.96.1.1 ip/fd00:10:96::101"},
		{"one chosen by hand", `clusterIP: 10.96.0.20, ipFamilyPolicy: PreferDualStack`, "ip/10.96.0.20 ip/fd00:10:96::101", "ip/fd00:10:96::101"},
		{"in another notation", `clusterIP: "FD00:10:96:0::5"`, "ip/fd00:10:96::5", ""},
		{"headless", `clusterIP: None`, "", ""},
		{"ExternalName with node ports", `type: ExternalName, externalName: a, ports: [{port: 1, nodePort: 30000}]`, "", ""},
		{"NodePort", `type: NodePort`, "ip/10.96.1.1 nodeport/30086", "ip/10.96.1.1 nodeport/30086"},
		{"NodePort by hand", `type: NodePort, ports: [{port: 80, nodePort: 30000}]`, "ip/10.96.1.1 nodeport/30000", "ip/10.96.1.1"},
		{"two ports", `type: NodePort, ports: [{name: a, port: 80}, {name: b, port: 81}]`, "ip/10.96.1.1 nodeport/30086 nodeport/30087", "ip/10.96.1.1 nodeport/30086 nodeport/30087"},
		{"one port in two protocols", `type: NodePort, ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]`, "ip/10.96.1.1 nodeport/30086", "ip/10.96.1.1 nodeport/30086"},
		{"one port in two protocols, one by hand", `type: NodePort, ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP, nodePort: 30053}]`, "ip/10.96.1.1 nodeport/30053", "ip/10.96.1.1"},
		{"a shared number that another UDP port has", `type: NodePort, ports: [{name: a, port: 53, nodePort: 30053}, {name: b, port: 54, protocol: UDP, nodePort: 30053}, {name: c, port: 53, protocol: UDP}]`, "ip/10.96.1.1 nodeport/30053 nodeport/30086", "ip/10.96.1.1 nodeport/30086"},
		{"a hand's number isn't picked for another port", `type: NodePort, ports: [{name: a, port: 80}, {name: b, port: 81, nodePort: 30086}]`, "ip/10.96.1.1 nodeport/30087 nodeport/30086", "ip/10.96.1.1 nodeport/30087"},
		{"LoadBalancer", `type: LoadBalancer, externalTrafficPolicy: Local`, "ip/10.96.1.1 nodeport/30086 nodeport/30087", "ip/10.96.1.1 nodeport/30086 nodeport/30087"},
		{"LoadBalancer without node ports", `type: LoadBalancer, allocateLoadBalancerNodePorts: false`, "ip/10.96.1.1", "ip/10.96.1.1"},
		{"LoadBalancer with one node port", `type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{name: a, port: 80}, {name: b, port: 81, nodePort: 30001}]`, "ip/10.96.1.1 nodeport/30001", "ip/10.96.1.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := usualPools(t)
			svc := request(t, p, tc.in, nil)
			a, err := p.Assign(svc, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := keys(svc); got != tc.want {
				t.Errorf("claims %q, want %q", got, tc.want)
			}
			var picked []string
			for _, c := range ServiceClaims(svc) {
				if a.Picked(c.Key) {
					picked = append(picked, c.Key)
				}
			}
			if got := strings.Join(picked, " "); got != tc.picked {
				t.Errorf("picked %q, want %q", got, tc.picked)
			}
			if len(svc.Spec.ClusterIPs) > 0 && svc.Spec.ClusterIP != svc.Spec.ClusterIPs[0] {
				t.Errorf("clusterIP %s, clusterIPs %s", svc.Spec.ClusterIP, svc.Spec.ClusterIPs)
			}
			checkHints(t, p, ServiceClaims(svc))
			a.Release()
			checkHints(t, p, nil)
		})
	}
}

// checkHints: the pools have exactly these claims marked.
func checkHints(t *testing.T, p *Pools, claims []Claim) {
	t.Helper()
	free := p.ports.Free()
	for _, r := range p.all() {
		free += r.Free()
	}
	total := p.ports.numbers.size
	for _, r := range p.all() {
		total += r.numbers.size
	}
	if total-free != uint64(len(claims)) {
		t.Errorf("%d hints for %d claims", total-free, len(claims))
	}
	for _, c := range claims {
		addr, port := parseKey(c.Key)
		if r := p.rangeOf(addr); !p.ports.Taken(port) && (r == nil || !r.Taken(addr)) {
			t.Errorf("%s isn't marked", c.Key)
		}
	}
}

// API-06, API-08: an update keeps what stays, adds what is missing, frees the rest
// after the commit.
func TestAssignUpdate(t *testing.T) {
	const oldKeys = "ip/10.96.1.1 nodeport/30086"
	for _, tc := range []struct{ name, old, in, want string }{
		{"the same", `type: NodePort`, `type: NodePort`, oldKeys},
		{"a second family", `type: NodePort`, `type: NodePort, ipFamilyPolicy: PreferDualStack`, "ip/10.96.1.1 ip/fd00:10:96::101 nodeport/30086"},
		{"a chosen second address", `type: NodePort`, `type: NodePort, ipFamilyPolicy: PreferDualStack, clusterIP: 10.96.1.1, clusterIPs: [10.96.1.1, "fd00:10:96::7"]`, "ip/10.96.1.1 ip/fd00:10:96::7 nodeport/30086"},
		{"no second family any more", `ipFamilyPolicy: PreferDualStack`, `ipFamilyPolicy: SingleStack`, "ip/10.96.1.1"},
		{"NodePort to ClusterIP", `type: NodePort`, ``, "ip/10.96.1.1"},
		{"NodePort to ExternalName", `type: NodePort`, `type: ExternalName, externalName: a`, ""},
		{"NodePort to LoadBalancer", `type: NodePort`, `type: LoadBalancer, externalTrafficPolicy: Local`, "ip/10.96.1.1 nodeport/30086 nodeport/30087"},
		{"LoadBalancer: Local to Cluster", `type: LoadBalancer, externalTrafficPolicy: Local`, `type: LoadBalancer`, oldKeys},
		{"LoadBalancer: node ports given up", `type: LoadBalancer`, `type: LoadBalancer, allocateLoadBalancerNodePorts: false`, "ip/10.96.1.1"},
		{"ExternalName to NodePort", `type: ExternalName, externalName: a`, `type: NodePort`, oldKeys},
		{"another node port", `type: NodePort`, `type: NodePort, ports: [{port: 80, nodePort: 30005}]`, "ip/10.96.1.1 nodeport/30005"},
		{"UDP joins TCP", `type: NodePort, ports: [{name: a, port: 53}]`, `type: NodePort, ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}]`, oldKeys},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := usualPools(t)
			old := request(t, p, tc.old, nil)
			a, err := p.Assign(old, nil)
			if err != nil {
				t.Fatal(err)
			}
			a.Commit()

			svc := request(t, p, tc.in, old)
			failed, err := p.Assign(svc.DeepCopy(), old)
			if err != nil {
				t.Fatal(err)
			}
			failed.Release()
			checkHints(t, p, ServiceClaims(old))

			a, err = p.Assign(svc, old)
			if err != nil {
				t.Fatal(err)
			}
			if got := keys(svc); got != tc.want {
				t.Errorf("claims %q, want %q", got, tc.want)
			}
			a.Commit()
			a.Release() // too late to do anything
			checkHints(t, p, ServiceClaims(svc))
		})
	}
}

// ALLOC-01, ALLOC-02: choices that can't be had, in the words of Kubernetes.
func TestAssignOutOfRange(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"address", `clusterIP: 1.1.1.1`, `spec.clusterIPs: Invalid value: ["1.1.1.1"]: failed to allocate IP 1.1.1.1: the provided IP (1.1.1.1) is not in the valid range. The range of valid IPs is 10.96.0.0/12`},
		{"IPv6 address", `clusterIP: "fd00::1"`, `spec.clusterIPs: Invalid value: ["fd00::1"]: failed to allocate IP fd00::1: the provided IP (fd00::1) is not in the valid range. The range of valid IPs is fd00:10:96::/112`},
		{"the network's address", `clusterIP: 10.96.0.0`, `spec.clusterIPs: Invalid value: ["10.96.0.0"]: failed to allocate IP 10.96.0.0: the provided IP (10.96.0.0) is not in the valid range. The range of valid IPs is 10.96.0.0/12`},
		{"the broadcast address", `clusterIP: 10.111.255.255`, `spec.clusterIPs: Invalid value: ["10.111.255.255"]: failed to allocate IP 10.111.255.255: the provided IP (10.111.255.255) is not in the valid range. The range of valid IPs is 10.96.0.0/12`},
		{"node port", `type: NodePort, ports: [{name: a, port: 80}, {name: b, port: 81, nodePort: 80}]`, `spec.ports[1].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		{"no port at all", `type: NodePort, ports: [{port: 80, nodePort: -1}]`, `spec.ports[0].nodePort: Invalid value: -1: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		{"beyond all ports", `type: NodePort, ports: [{port: 80, nodePort: 95536}]`, `spec.ports[0].nodePort: Invalid value: 95536: provided port is not in the valid range. The range of valid ports is 30000-32767`},
		{"health check port", `type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 80`, `spec.healthCheckNodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := usualPools(t)
			svc := request(t, p, tc.in, nil)
			_, err := p.Assign(svc, nil)
			var fieldErr *field.Error
			if !errors.As(err, &fieldErr) || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if errs := p.Validate(svc, nil); len(errs) != 1 || errs[0].Error() != tc.want {
				t.Errorf("Validate: %v", errs)
			}
			checkHints(t, p, nil)
		})
	}
}

// What a Service has stays, also when its range is taken away.
func TestAssignKeepsWhatIsOutOfRangeNow(t *testing.T) {
	before := mustPools(t, "30000-32767", "10.96.0.0/12")
	old := request(t, before, `type: NodePort`, nil)
	if _, err := before.Assign(old, nil); err != nil {
		t.Fatal(err)
	}
	now := mustPools(t, "31000-31999", "10.128.0.0/12")
	svc := request(t, now, `type: NodePort`, old)
	if _, err := now.Assign(svc, old); err != nil || keys(svc) != keys(old) {
		t.Errorf("%v, claims %s", err, keys(svc))
	}
}

// ALLOC-06: a full range is a clear error that leaks nothing.
func TestAssignFull(t *testing.T) {
	p := mustPools(t, "30000-30000", "10.96.0.0/30", "fd00:10:96::/112")
	first := request(t, p, `type: NodePort`, nil)
	if _, err := p.Assign(first, nil); err != nil {
		t.Fatal(err)
	}
	_, err := p.Assign(request(t, p, `type: NodePort, ipFamilyPolicy: PreferDualStack`, nil), nil)
	if !errors.Is(err, ErrFull) || err.Error() != "failed to allocate a nodePort: range is full: 30000-30000" {
		t.Error(err)
	}
	checkHints(t, p, ServiceClaims(first))
	second := request(t, p, ``, nil)
	if _, err := p.Assign(second, nil); err != nil {
		t.Fatal(err)
	}
	_, err = p.Assign(request(t, p, ``, nil), nil)
	if !errors.Is(err, ErrFull) || err.Error() != "failed to allocate a serviceIP: range is full: 10.96.0.0/30" {
		t.Error(err)
	}
	p.Free(ServiceClaims(first)...)
	if _, err := p.Assign(request(t, p, `type: NodePort`, nil), nil); err != nil {
		t.Errorf("after a delete: %v", err)
	}
}

// ALLOC-05: a further range of a family is drawn from when the first is full.
func TestAssignFromSecondRange(t *testing.T) {
	p := mustPools(t, "30000-32767", "10.96.0.0/30", "fd00:10:96::/112", "10.128.0.0/30")
	if got := p.Families(); !slices.Equal(got, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}) {
		t.Errorf("families %v", got)
	}
	var got []string
	for range 3 {
		svc := request(t, p, ``, nil)
		if _, err := p.Assign(svc, nil); err != nil {
			t.Fatal(err)
		}
		got = append(got, svc.Spec.ClusterIP)
	}
	if want := []string{"10.96.0.1", "10.96.0.2", "10.128.0.1"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := NewPools(p.ports, p.all()[0].Range, p.all()[0].Range); err == nil {
		t.Error("overlapping ranges were accepted")
	}
}

// ALLOC-04: the transaction finds a key claimed that the hints thought free.
func TestConflict(t *testing.T) {
	p := usualPools(t)
	svc := request(t, p, `type: LoadBalancer, externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack, ports: [{name: a, port: 53}, {name: b, port: 53, protocol: UDP}, {name: c, port: 80, nodePort: 30000}]`, nil)
	a, err := p.Assign(svc, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"ip/fd00:10:96::101", "ip/10.96.1.1", "ip/10.96.1.2", "nodeport/30086", "nodeport/30087"} {
		if err := a.Conflict(key); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if strings.Contains(keys(svc)+" ", key+" ") {
			t.Errorf("%s is still claimed: %s", key, keys(svc))
		}
	}
	if want := "ip/10.96.1.3 ip/fd00:10:96::102 nodeport/30088 nodeport/30000 nodeport/30089"; keys(svc) != want {
		t.Errorf("claims %s, want %s", keys(svc), want)
	}
	if svc.Spec.ClusterIP != "10.96.1.3" || svc.Spec.Ports[0].NodePort != svc.Spec.Ports[1].NodePort {
		t.Errorf("%+v", svc.Spec)
	}
	if err := a.Conflict("nodeport/30000"); err == nil || err.Error() != "spec.ports[2].nodePort: Invalid value: 30000: provided port is already allocated" {
		t.Error(err)
	}
	a.Release()
	// What others hold stays marked.
	checkHints(t, p, []Claim{{Key: "ip/fd00:10:96::101"}, {Key: "ip/10.96.1.1"}, {Key: "ip/10.96.1.2"}, {Key: "nodeport/30086"}, {Key: "nodeport/30087"}})

	chosen := request(t, p, `clusterIP: 10.96.0.20`, nil)
	a, err = p.Assign(chosen, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Conflict("ip/10.96.0.20"); err == nil || err.Error() != `spec.clusterIPs: Invalid value: ["10.96.0.20"]: failed to allocate IP 10.96.0.20: provided IP is already allocated` {
		t.Error(err)
	}
}

// Hints follow what the storage says.
func TestPoolsReplace(t *testing.T) {
	p := usualPools(t)
	claims := []Claim{{Key: "ip/10.96.0.10"}, {Key: "ip/fd00:10:96::a"}, {Key: "nodeport/30000"}}
	p.Mark(Claim{Key: "ip/10.96.0.1"}, Claim{Key: "nodeport/30001"})
	p.Replace(slices.Values([]string{"ip/10.96.0.10", "ip/fd00:10:96::a", "nodeport/30000", "nodeport/99999", "ip/10.245.0.2", "mac/02:70:00:00:00:01", "ip/", "what"}))
	checkHints(t, p, claims)
	p.Mark(Claim{Key: "ip/192.0.2.1"}, Claim{Key: "nodeport/1"}, Claim{Key: "mac/02:70:00:00:00:01"})
	checkHints(t, p, claims)
	p.Free(claims...)
	checkHints(t, p, nil)
}

func TestGuestClaims(t *testing.T) {
	guest, err := mustGuests(t, "10.245.0.0/16", "fd00:10:245::/64").Guest(netip.MustParseAddr("10.245.0.2"), netip.MustParseAddr("fd00:10:245:0::2"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Claim{{Address, "ip/10.245.0.2", "u"}, {Address, "ip/fd00:10:245::2", "u"}, {MAC, "mac/02:70:0a:f5:00:02", "u"}}
	if got := GuestClaims(guest.Addrs, guest.MAC, "u"); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func BenchmarkAssignAndClaims(b *testing.B) {
	r, err := NewRange(netip.MustParsePrefix("10.96.0.0/12"), nil)
	if err != nil {
		b.Fatal(err)
	}
	ports, err := NewPortRange(30000, 32767, nil)
	if err != nil {
		b.Fatal(err)
	}
	p, err := NewPools(ports, r)
	if err != nil {
		b.Fatal(err)
	}
	cluster := service.Cluster{Families: p.Families()}
	b.ReportAllocs()
	for b.Loop() {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}}}
		svc.Name, svc.Namespace = "web", "default"
		service.SetDefaults(svc)
		cluster.PrepareForCreate(svc)
		if errs := cluster.Validate(svc); len(errs) > 0 {
			b.Fatal(errs)
		}
		a, err := p.Assign(svc, nil)
		if err != nil {
			b.Fatal(err)
		}
		ServiceClaims(svc)
		a.Release()
	}
}
