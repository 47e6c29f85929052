package pools

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"portico.dev/portico/internal/core/metallb"
)

// service makes one of name and words: v4 (default), v6, prefer, require, local; port=N,
// has=ADDR, ip=ADDR, and annotations and labels as they are, with "key=value".
func service(name string, words ...string) *corev1.Service {
	policy := corev1.IPFamilyPolicySingleStack
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, IPFamilyPolicy: &policy,
			Selector: map[string]string{"app": name},
		},
	}
	number := int32(80)
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case key == "v6":
			svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
		case key == "prefer" || key == "require":
			policy = map[string]corev1.IPFamilyPolicy{"prefer": corev1.IPFamilyPolicyPreferDualStack, "require": corev1.IPFamilyPolicyRequireDualStack}[key]
			svc.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
			if value == "v6" {
				slices.Reverse(svc.Spec.IPFamilies)
			}
		case key == "local":
			svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		case key == "port":
			_, _ = fmt.Sscan(value, &number)
		case key == "ns":
			svc.Namespace = value
		case key == "ip":
			svc.Spec.LoadBalancerIP = value
		case key == "has":
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: value})
		case strings.Contains(key, "/"):
			svc.Annotations[key] = value
		default:
			svc.Labels[key] = value
		}
	}
	svc.Spec.Ports = []corev1.ServicePort{{Port: number}}
	return svc
}

func pinned(p *metallb.IPAddressPool, a metallb.ServiceAllocation) *metallb.IPAddressPool {
	p.Spec.ServiceAllocation = &a
	return p
}

func closed(p *metallb.IPAddressPool) *metallb.IPAddressPool {
	no := false
	p.Spec.AutoAssign = &no
	return p
}

func selector(key, value string) []metav1.LabelSelector {
	return []metav1.LabelSelector{{MatchLabels: map[string]string{key: value}}}
}

// want is either addresses and the pool, or a part of the refusal.
type want struct {
	svc  *corev1.Service
	want string // "192.0.2.0 2001:db8:: of lan", or a reason and a part of its message: "AddressInUse: default/web"
}

// LB-01: who gets which address, in the order told, and why others get none.
func TestAllocate(t *testing.T) {
	lan := makePool("lan", 1, "192.0.2.1-192.0.2.3")
	dual := makePool("dual", 2, "198.51.100.1-198.51.100.2", "2001:db8::1-2001:db8::2")
	for name, tt := range map[string]struct {
		pools []*metallb.IPAddressPool
		held  []*corev1.Service
		wants []want
	}{
		"the first free": {pools: []*metallb.IPAddressPool{lan}, wants: []want{
			{service("a"), "192.0.2.1 of lan"},
			{service("b"), "192.0.2.2 of lan"},
			{service("c"), "192.0.2.3 of lan"},
			{service("d"), "AddressesExhausted: all 3 IPv4 addresses of the IPAddressPool lan"},
			{service("a"), "192.0.2.1 of lan"},
		}},
		"no pool":   {wants: []want{{service("a"), "NoPools: portico pool add"}}},
		"no family": {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", "v6"), "NoFamily: needs an IPv6 address"}}},
		"what the status says is kept, also by one told later": {pools: []*metallb.IPAddressPool{lan}, held: []*corev1.Service{service("b", "has=192.0.2.1")}, wants: []want{
			{service("a"), "192.0.2.2 of lan"},
			{service("b", "has=192.0.2.1"), "192.0.2.1 of lan"},
		}},
		"of two that have one the older keeps it": {
			pools: []*metallb.IPAddressPool{lan}, held: []*corev1.Service{service("old", "has=192.0.2.2"), service("new", "has=192.0.2.2")},
			wants: []want{{service("new", "has=192.0.2.2"), "192.0.2.1 of lan"}, {service("old", "has=192.0.2.2"), "192.0.2.2 of lan"}},
		},
		"a status of no pool moves":     {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", "has=192.0.2.77"), "192.0.2.1 of lan"}}},
		"a status of the other family":  {pools: []*metallb.IPAddressPool{dual}, wants: []want{{service("a", "has=2001:db8::1"), "198.51.100.1 of dual"}}},
		"spec.loadBalancerIP":           {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", "ip=192.0.2.3"), "192.0.2.3 of lan"}}},
		"the annotation":                {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", AddressesAnnotation+"=192.0.2.3"), "192.0.2.3 of lan"}}},
		"the older annotation":          {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", "metallb.universe.tf/loadBalancerIPs=192.0.2.3"), "192.0.2.3 of lan"}}},
		"both annotations: the newer":   {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", "metallb.universe.tf/loadBalancerIPs=192.0.2.3", AddressesAnnotation+"=192.0.2.2"), "192.0.2.2 of lan"}}},
		"both families by annotation":   {pools: []*metallb.IPAddressPool{dual}, wants: []want{{service("a", "require", AddressesAnnotation+"=2001:db8::2, 198.51.100.2"), "2001:db8::2 198.51.100.2 of dual"}}},
		"the wish wins over the status": {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", "has=192.0.2.1", "ip=192.0.2.3"), "192.0.2.3 of lan"}}},
		"field and annotation differ":   {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", "ip=192.0.2.3", AddressesAnnotation+"=192.0.2.2"), "BadRequest: keep one of the two"}}},
		"no address":                    {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", AddressesAnnotation+"=web.example"), "BadRequest: is no IP address"}}},
		"two of one family":             {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", AddressesAnnotation+"=192.0.2.1,192.0.2.2"), "BadRequest: one address of each family at most"}}},
		"the wrong family":              {pools: []*metallb.IPAddressPool{dual}, wants: []want{{service("a", "ip=2001:db8::1"), "BadRequest: has no IPv6"}}},
		"one where both are required":   {pools: []*metallb.IPAddressPool{dual}, wants: []want{{service("a", "require", "ip=198.51.100.1"), "BadRequest: requires both families"}}},
		"one where both are preferred":  {pools: []*metallb.IPAddressPool{dual}, wants: []want{{service("a", "prefer", "ip=198.51.100.1"), "198.51.100.1 of dual"}}},
		"in no pool":                    {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", "ip=192.0.2.9"), "AddressNotInPool: portico pool add NAME 192.0.2.9/32"}}},
		"of two pools": {
			pools: []*metallb.IPAddressPool{lan, dual},
			wants: []want{{service("a", "require", AddressesAnnotation+"=192.0.2.1,2001:db8::1"), "BadRequest: come from one pool"}},
		},
		"taken":      {pools: []*metallb.IPAddressPool{lan}, held: []*corev1.Service{service("web", "has=192.0.2.3")}, wants: []want{{service("a", "ip=192.0.2.3"), "AddressInUse: default/web"}}},
		"by pool":    {pools: []*metallb.IPAddressPool{dual, lan}, wants: []want{{service("a", PoolAnnotation+"=lan"), "192.0.2.1 of lan"}, {service("a", "has=192.0.2.1", PoolAnnotation+"=dual"), "198.51.100.1 of dual"}}},
		"no pool so": {pools: []*metallb.IPAddressPool{lan}, wants: []want{{service("a", PoolAnnotation+"=lann"), "PoolNotFound: there are lan"}}},
		"address and pool contradict": {
			pools: []*metallb.IPAddressPool{dual, lan},
			wants: []want{{service("a", "ip=192.0.2.1", PoolAnnotation+"=dual"), "BadRequest: asks for dual"}},
		},
		"autoAssign false": {
			pools: []*metallb.IPAddressPool{closed(makePool("quiet", 1, "203.0.113.0/30"))},
			wants: []want{
				{service("a"), "PoolNotAllowed: autoAssign false"},
				{service("a", PoolAnnotation+"=quiet"), "203.0.113.0 of quiet"},
				{service("b", "ip=203.0.113.3"), "203.0.113.3 of quiet"},
				{service("a", "has=203.0.113.0"), "203.0.113.0 of quiet"},
			},
		},
		"avoidBuggyIPs": {
			pools: []*metallb.IPAddressPool{func() *metallb.IPAddressPool {
				p := makePool("a", 1, "203.0.113.254-203.0.114.1")
				p.Spec.AvoidBuggyIPs = true
				return p
			}()},
			wants: []want{{service("a"), "203.0.113.254 of a"}, {service("b"), "203.0.114.1 of a"}, {service("c", "ip=203.0.114.0"), "AddressNotInPool: "}, {service("d"), "AddressesExhausted: all 2 "}},
		},
		"pinned pools come first, by priority": {
			pools: []*metallb.IPAddressPool{
				lan,
				pinned(makePool("a-none", 3, "203.0.113.1/32"), metallb.ServiceAllocation{Namespaces: []string{"default"}}),
				pinned(makePool("b-20", 4, "203.0.113.2/32"), metallb.ServiceAllocation{Priority: 20, NamespaceSelectors: selector("team", "red")}),
				pinned(makePool("c-10", 5, "203.0.113.3/32"), metallb.ServiceAllocation{Priority: 10, ServiceSelectors: selector("app", "web")}),
				pinned(makePool("d-5", 6, "203.0.113.4/32"), metallb.ServiceAllocation{Priority: 5, Namespaces: []string{"other"}}),
			},
			wants: []want{
				{service("a", "app=web"), "203.0.113.3 of c-10"},
				{service("b", "app=web"), "203.0.113.2 of b-20"},
				{service("c"), "203.0.113.1 of a-none"},
				{service("d"), "192.0.2.1 of lan"},
				{service("e", "ns=third"), "192.0.2.2 of lan"},
				{service("f", PoolAnnotation+"=d-5"), "PoolNotAllowed: d-5"},
				{service("g", "ip=203.0.113.4"), "PoolNotAllowed: d-5"},
				{service("h", "ns=other", "app=none"), "203.0.113.4 of d-5"},
			},
		},
		"a status of a pool that is for others now": {
			pools: []*metallb.IPAddressPool{lan, pinned(makePool("own", 2, "203.0.113.1/32"), metallb.ServiceAllocation{Namespaces: []string{"other"}})},
			wants: []want{{service("a", "has=203.0.113.1"), "192.0.2.1 of lan"}},
		},
		"dual stack": {pools: []*metallb.IPAddressPool{lan, dual}, wants: []want{
			{service("a", "require"), "198.51.100.1 2001:db8::1 of dual"},
			{service("b", "prefer=v6"), "2001:db8::2 198.51.100.2 of dual"},
			{service("c", "prefer"), "192.0.2.1 of lan"},
			{service("d", "require"), "AddressesExhausted: all 2 IPv6"},
		}},
		"one of two pools each has one family": {
			pools: []*metallb.IPAddressPool{lan, makePool("six", 2, "2001:db8::/126")},
			wants: []want{
				{service("a", "require"), "NoFamily: come from one IPAddressPool"},
				{service("b", "prefer"), "192.0.2.1 of lan"},
				{service("c", "prefer=v6"), "2001:db8:: of six"},
			},
		},
		"the second address comes when there is one": {pools: []*metallb.IPAddressPool{dual}, wants: []want{{service("a", "prefer", "has=198.51.100.2"), "198.51.100.2 2001:db8::1 of dual"}}},
		"dual became single":                         {pools: []*metallb.IPAddressPool{dual}, wants: []want{{service("a", "has=198.51.100.2", "has=2001:db8::2"), "198.51.100.1 of dual"}}},
		"sharing": {pools: []*metallb.IPAddressPool{lan}, wants: []want{
			{service("zero"), "192.0.2.1 of lan"},
			{service("a", SharingAnnotation+"=k"), "192.0.2.2 of lan"},
			{service("b", SharingAnnotation+"=k", "port=81"), "192.0.2.2 of lan"},
			{service("c", "metallb.universe.tf/allow-shared-ip=k", "port=82"), "192.0.2.2 of lan"},
			{service("d", SharingAnnotation+"=k", "port=81"), "192.0.2.3 of lan"},
			{service("e", SharingAnnotation+"=k", "port=83", "local"), "AddressesExhausted: "},
			{service("f", SharingAnnotation+"=k", "port=80", "ip=192.0.2.2"), "AddressInUse: has the port TCP 80"},
			{service("g", SharingAnnotation+"=other", "port=90", "ip=192.0.2.2"), `AddressInUse: by the key "k" and not "other"`},
			{service("h", "port=90", "ip=192.0.2.2"), "AddressInUse: the annotation metallb.io/allow-shared-ip"},
			{service("i", SharingAnnotation+"=k", "port=90", "ip=192.0.2.2", "local"), "AddressInUse: externalTrafficPolicy Cluster"},
			{service("j", SharingAnnotation+"=k", "port=90", "ip=192.0.2.1"), "AddressInUse: default/zero"},
		}},
		"a shared address is left when the port is another's": {
			pools: []*metallb.IPAddressPool{lan},
			held:  []*corev1.Service{service("a", SharingAnnotation+"=k", "has=192.0.2.1"), service("b", SharingAnnotation+"=k", "port=81", "has=192.0.2.1")},
			wants: []want{{service("b", SharingAnnotation+"=k", "port=80", "has=192.0.2.1"), "192.0.2.2 of lan"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			set, faults := Parse(config(tt.pools...))
			if len(faults) > 0 {
				t.Fatal(faults)
			}
			a := NewAllocator(set)
			for _, svc := range tt.held {
				a.Hold(svc)
			}
			for _, w := range tt.wants {
				team := map[string]string{}
				if w.svc.Namespace == "default" {
					team["team"] = "red"
				}
				result, refusal := a.Allocate(w.svc, team)
				if refusal != nil {
					reason, part, _ := strings.Cut(w.want, ": ")
					if string(refusal.Reason) != reason || !strings.Contains(refusal.Message, part) {
						t.Errorf("%s: %s: %s, want %q", w.svc.Name, refusal.Reason, refusal.Message, w.want)
					}
					continue
				}
				if got := strings.Trim(fmt.Sprint(result.Addresses), "[]") + " of " + result.Pool; got != w.want {
					t.Errorf("%s has %s, want %s", w.svc.Name, got, w.want)
				}
			}
		})
	}
}

// LB-01: whatever happens in whatever order, no address has two Services that don't share
// it, every address is of a pool, counts are true, and who has one keeps it.
func TestNoAddressTwice(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	configs := []*metallb.Config{
		config(makePool("lan", 1, "192.0.2.0/29", "2001:db8::/125")),
		config(makePool("lan", 1, "192.0.2.4/30"), makePool("dual", 2, "198.51.100.0/30", "2001:db8::/126")),
	}
	services := map[string]*corev1.Service{}
	set, _ := Parse(configs[0])
	a := NewAllocator(set)
	for step := range 5000 {
		name := fmt.Sprint("s", random.IntN(16))
		switch svc := services[name]; random.IntN(10) {
		case 0: // new pools, and a controller that begins anew
			set, _ = Parse(configs[random.IntN(len(configs))])
			a = NewAllocator(set)
			for _, svc := range services {
				a.Hold(svc)
			}
		case 1, 2:
			if svc != nil {
				a.Release(nameOf(svc))
				delete(services, name)
			}
		default:
			words := []string{fmt.Sprint("port=", random.IntN(3))}
			words = append(words, [][]string{nil, {"v6"}, {"prefer"}, {"require=v6"}}[random.IntN(4)]...)
			words = append(words, [][]string{nil, {SharingAnnotation + "=x"}, {SharingAnnotation + "=y", "local"}, {"ip=192.0.2.5"}, {SharingAnnotation + "=x", "ip=192.0.2.6"}}[random.IntN(5)]...)
			fresh := service(name, words...)
			unchanged := svc != nil && random.IntN(3) == 0
			if unchanged {
				fresh = svc.DeepCopy()
			} else if svc != nil {
				fresh.Status = svc.Status
			}
			before := Addresses(fresh)
			held := len(before) > 0 && slices.Equal(a.Has(nameOf(fresh)), before)
			result, refusal := a.Allocate(fresh, nil)
			fresh.Status.LoadBalancer.Ingress = nil
			for i, addr := range result.Addresses {
				fresh.Status.LoadBalancer.Ingress = append(fresh.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: addr.String()})
				if p := set.Find(addr); p == nil || i == 0 && p.Name != result.Pool {
					t.Fatalf("seed %d, step %d: %s isn't of %s", seed, step, addr, result.Pool)
				}
			}
			stays := !slices.ContainsFunc(before, func(addr netip.Addr) bool { return set.Find(addr) == nil })
			if unchanged && held && stays && (refusal != nil || !slices.Equal(before, result.Addresses[:min(len(before), len(result.Addresses))])) {
				t.Fatalf("seed %d, step %d: %s had %v and has %v (%v)", seed, step, name, before, result.Addresses, refusal)
			}
			services[name] = fresh
		}
		verify(t, a, services, fmt.Sprintf("seed %d, step %d", seed, step))
	}
}

// verify recounts from what the allocator says the Services have.
func verify(t *testing.T, a *Allocator, services map[string]*corev1.Service, when string) {
	t.Helper()
	users := map[netip.Addr][]*corev1.Service{}
	for _, svc := range services {
		for _, addr := range a.Has(nameOf(svc)) {
			users[addr] = append(users[addr], svc)
		}
	}
	for addr, list := range users {
		for i, svc := range list {
			for _, other := range list[:i] {
				if KeyOf(svc).Sharing == "" || KeyOf(svc) != KeyOf(other) || portsOf(svc)[0] == portsOf(other)[0] {
					t.Fatalf("%s: %s has %s and %s", when, addr, svc.Name, other.Name)
				}
			}
		}
	}
	var assigned int64
	for _, c := range a.Counts() {
		assigned += c.AssignedIPv4 + c.AssignedIPv6
	}
	inPools := 0
	for addr := range users {
		if a.Set().Find(addr) != nil {
			inPools++
		}
	}
	if int(assigned) != inPools {
		t.Fatalf("%s: counted %d, are %d", when, assigned, inPools)
	}
}

// Giving out ten thousand addresses costs the same for the last as for the first.
func BenchmarkAllocate(b *testing.B) {
	set, _ := Parse(config(makePool("lan", 1, "10.0.0.0/16")))
	for b.Loop() {
		a := NewAllocator(set)
		for i := range 10000 {
			if _, refusal := a.Allocate(service(fmt.Sprint(i)), nil); refusal != nil {
				b.Fatal(refusal)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/10000, "ns/address")
}
