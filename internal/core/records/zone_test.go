package records

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
)

func newZone(t testing.TB) *Zone {
	t.Helper()
	z, err := NewZone(Config{Domain: "cluster.local", Reverse: []netip.Prefix{
		netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/112"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func change(namespace, name string, headless bool, addrs ...string) Change {
	svc := &catalog.Service{Name: types.NamespacedName{Namespace: namespace, Name: name}, Headless: headless}
	slice := &catalog.Slice{}
	for i, a := range addrs {
		addr := netip.MustParseAddr(a)
		if headless {
			slice.Endpoints = append(slice.Endpoints, catalog.Endpoint{Addr: addr, Ready: true, Hostname: fmt.Sprintf("%s-%d", name, i)})
		} else {
			svc.ClusterIPs = append(svc.ClusterIPs, addr)
		}
	}
	return Change{Name: svc.Name, Service: svc, Slices: []*catalog.Slice{slice}}
}

func gone(namespace, name string) Change {
	return Change{Name: types.NamespacedName{Namespace: namespace, Name: name}}
}

// state says how a name is answered: the types it has, "exists", "missing", or
// "foreign".
func state(t testing.TB, table *Table, text string) string {
	t.Helper()
	name, err := ParseName(text)
	if err != nil {
		t.Fatal(err)
	}
	r := table.Find([]byte(name))
	switch {
	case !r.Ours:
		return "foreign"
	case r.Pod.IsValid():
		return "pod " + r.Pod.String()
	case r.Unknown:
		return "unknown"
	case r.Node != "":
		var types []string
		for n := r.Node; n != ""; {
			var s Set
			s, n = n.first()
			types = append(types, fmt.Sprintf("%d x%d", s.Type, s.Answers))
		}
		return fmt.Sprint(types)
	case r.Exists:
		return "exists"
	}
	return "missing"
}

func expect(t *testing.T, table *Table, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if got := state(t, table, name); got != w {
			t.Errorf("%s: %s, want %s", name, got, w)
		}
	}
}

// TestZoneChanges: names appear and go with their Services, and an old table
// stays as it was. DNS-01, DNS-02, DNS-03
func TestZoneChanges(t *testing.T) {
	z := newZone(t)
	z.Replace([]Change{change("default", "web", false, "10.96.0.20", "fd00:10:96::20"), change("db", "store", true, "10.100.0.2")})
	first := z.Table(1)
	before := map[string]string{
		"cluster.local":                      "[2 x1]",
		"dns-version.cluster.local":          "[16 x1]",
		"svc.cluster.local":                  "exists",
		"default.svc.cluster.local":          "exists",
		"web.default.svc.cluster.local":      "[1 x1 28 x1]",
		"x.web.default.svc.cluster.local":    "missing",
		"nobody.svc.cluster.local":           "missing",
		"web.cluster.local":                  "missing",
		"store-0.store.db.svc.cluster.local": "[1 x1]",
		"20.0.96.10.in-addr.arpa":            "[12 x1]",
		"21.0.96.10.in-addr.arpa":            "missing",
		"96.10.in-addr.arpa":                 "exists",
		"10.in-addr.arpa":                    "foreign",
		"1.2.0.192.in-addr.arpa":             "foreign",
		"in-addr.arpa":                       "foreign",
		"020.0.96.10.in-addr.arpa":           "foreign",
		"xcluster.local":                     "foreign",
		"local":                              "foreign",
	}
	expect(t, first, before)

	z.Update([]Change{gone("default", "web"), change("db", "store", true, "10.100.0.3", "10.100.0.4")})
	expect(t, z.Table(2), map[string]string{
		"default.svc.cluster.local":          "missing",
		"web.default.svc.cluster.local":      "missing",
		"20.0.96.10.in-addr.arpa":            "missing",
		"store.db.svc.cluster.local":         "[1 x2]",
		"store-1.store.db.svc.cluster.local": "[1 x1]",
		"2.0.100.10.in-addr.arpa":            "missing",
		"3.0.100.10.in-addr.arpa":            "[12 x1]",
	})
	expect(t, first, before)
}

// TestZoneLeavesNothing: after all Services are gone the table is as at first.
func TestZoneLeavesNothing(t *testing.T) {
	z := newZone(t)
	empty := z.Table(1).names.size
	var all, none []Change
	for i := range 50 {
		name := fmt.Sprintf("s%d", i)
		all = append(all, change("ns-"+name, name, i%2 == 0, fmt.Sprintf("10.97.0.%d", i/4)))
		none = append(none, gone("ns-"+name, name))
	}
	z.Update(all)
	z.Update(all)
	z.Update(none)
	if got := z.Table(2).names.size; got != empty || len(z.held)+len(z.used) > 0 {
		t.Errorf("%d names stay, %d were there; %d held, %d namespaces", got, empty, len(z.held), len(z.used))
	}
}

// TestSharedReverse: a pod of two headless Services has two PTR records; when
// its address is a Service's own, that alone is answered. DNS-03
func TestSharedReverse(t *testing.T) {
	z := newZone(t)
	z.Update([]Change{change("db", "a", true, "10.97.0.1"), change("db", "b", true, "10.97.0.1")})
	const name = "1.0.97.10.in-addr.arpa"
	expect(t, z.Table(1), map[string]string{name: "[12 x2]"})
	z.Update([]Change{change("db", "c", false, "10.97.0.1")})
	expect(t, z.Table(1), map[string]string{name: "[12 x1 65280 x2]"})
	z.Update([]Change{gone("db", "c")})
	expect(t, z.Table(1), map[string]string{name: "[12 x2]"})
	z.Update([]Change{gone("db", "a")})
	expect(t, z.Table(1), map[string]string{name: "[12 x1]"})
	z.Update([]Change{gone("db", "b")})
	expect(t, z.Table(1), map[string]string{name: "missing"})
}

// TestEndpointOutsideOfRanges: its PTR is answered though the range isn't ours.
func TestEndpointOutsideOfRanges(t *testing.T) {
	z := newZone(t)
	z.Update([]Change{change("db", "a", true, "192.0.2.1")})
	expect(t, z.Table(1), map[string]string{"1.2.0.192.in-addr.arpa": "[12 x1]", "2.2.0.192.in-addr.arpa": "foreign"})
}

// TestPodNames. DNS-04
func TestPodNames(t *testing.T) {
	z := newZone(t)
	z.Update([]Change{change("default", "web", false, "10.96.0.20")})
	expect(t, z.Table(1), map[string]string{
		"pod.cluster.local":                          "exists",
		"any.pod.cluster.local":                      "exists",
		"1-2-3-4.any.pod.cluster.local":              "pod 1.2.3.4",
		"fd00-10-245--2.any.pod.cluster.local":       "pod fd00:10:245::2",
		"0--1.any.pod.cluster.local":                 "pod ::1",
		"1-2-3.any.pod.cluster.local":                "missing",
		"1-2-3-400.any.pod.cluster.local":            "missing",
		"web.default.pod.cluster.local":              "missing",
		"x.1-2-3-4.default.pod.cluster.local":        "missing",
		"1-2-3-4.default.svc.cluster.local":          "missing",
		"fd00--1--2.default.pod.cluster.local":       "missing",
		"fd00-1-2-3-4-5-6-7-8.any.pod.cluster.local": "missing",
	})
	z.Namespaces([]string{"default", "empty"})
	known := map[string]string{
		"1-2-3-4.any.pod.cluster.local":   "missing",
		"any.pod.cluster.local":           "missing",
		"1-2-3-4.empty.pod.cluster.local": "pod 1.2.3.4",
		"empty.pod.cluster.local":         "exists",
		"empty.svc.cluster.local":         "exists",
	}
	expect(t, z.Table(1), known)
	z.Replace(nil)
	expect(t, z.Table(1), known)
	z.Namespaces([]string{"default"})
	expect(t, z.Table(1), map[string]string{"empty.svc.cluster.local": "missing", "default.svc.cluster.local": "exists"})

	off, err := NewZone(Config{Domain: "cluster.local", Pods: PodsOff})
	if err != nil {
		t.Fatal(err)
	}
	off.Update([]Change{change("default", "web", false, "10.96.0.20")})
	expect(t, off.Table(1), map[string]string{
		"1-2-3-4.default.pod.cluster.local": "missing",
		"default.pod.cluster.local":         "missing",
		"pod.cluster.local":                 "missing",
	})
}

// TestNameServer: the NS record's server has the addresses of the Service that
// leads to it.
func TestNameServer(t *testing.T) {
	z := newZone(t)
	expect(t, z.Table(1), map[string]string{"ns.dns.cluster.local": "exists", "dns.cluster.local": "exists"})
	z.Update([]Change{change("kube-system", "kube-dns", false, "10.96.0.10")})
	expect(t, z.Table(1), map[string]string{"ns.dns.cluster.local": "[1 x1]"})
	z.Update([]Change{gone("kube-system", "kube-dns")})
	expect(t, z.Table(1), map[string]string{"ns.dns.cluster.local": "exists"})
}

func TestBadDomain(t *testing.T) {
	long := "a123456789b123456789c123456789d123456789e123456789f123456789.a123456789b123456789c123456789d123456789e123456789f123456789.local"
	for _, domain := range []string{"", ".", "a..b", `a\.b`, long} {
		if _, err := NewZone(Config{Domain: domain}); err == nil {
			t.Errorf("%q: no error", domain)
		}
	}
}

// TestReverseNames: an address' name reads back as the address.
func TestReverseNames(t *testing.T) {
	for _, text := range []string{"10.96.0.10", "0.0.0.0", "255.255.255.255", "fd00:10:96::a", "::1", "fe80::1234:5678:9abc:def0"} {
		a := netip.MustParseAddr(text)
		p, ok := reversePrefix([]byte(ReverseName(a)))
		if !ok || p.Addr() != a || !p.IsSingleIP() {
			t.Errorf("%s: %s reads as %v, %v", a, ReverseName(a), p, ok)
		}
		back, ok := undashed([]byte(dashed(a)))
		if !ok || back != a {
			t.Errorf("%s: %s reads as %v, %v", a, dashed(a), back, ok)
		}
	}
	short, ok := reversePrefix([]byte("\x011\x01d\x01f" + arpa6))
	if want := netip.MustParsePrefix("fd10::/12"); !ok || short != want {
		t.Errorf("%v, want %v", short, want)
	}
}

// TestSamePictureInAnyOrder: the order of slices doesn't show.
func TestSamePictureInAnyOrder(t *testing.T) {
	c := change("db", "a", true, "10.97.0.1", "10.97.0.2", "fd00::1")
	other := change("db", "a", true)
	for i := range c.Slices[0].Endpoints {
		other.Slices = append(other.Slices, &catalog.Slice{Endpoints: c.Slices[0].Endpoints[2-i : 3-i]})
	}
	zone := zoneName(t)
	a, b := OfService(zone, c.Service, c.Slices), OfService(zone, other.Service, other.Slices)
	if !reflect.DeepEqual(a, b) {
		t.Errorf("\n%s\n%s", lines(a), lines(b))
	}
}

// BenchmarkUpdate shows that a change costs the same with many Services.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{10, 1000, 30000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			z := newZone(b)
			all := make([]Change, n)
			for i := range all {
				all[i] = change(fmt.Sprintf("ns%d", i%100), fmt.Sprintf("svc-%d", i), false, netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)}).String())
			}
			z.Replace(all)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				z.Update(all[i%n : i%n+1])
				_ = z.Table(uint32(i))
			}
		})
	}
}

// DNS-02: endpoints that come and go change names though their Service is as it was, where
// they have hostnames or the Service is headless; elsewhere they change nothing.
func TestEndpointsOfOneService(t *testing.T) {
	a := netip.MustParseAddr("10.245.0.2")
	for what, headless := range map[string]bool{"cluster IP": false, "headless": true} {
		svc := &catalog.Service{Name: types.NamespacedName{Namespace: "ns", Name: "web"}, Headless: headless}
		z := newZone(t)
		for _, step := range []struct{ hostname, named, plain string }{
			{"", "missing", "[1 x1]"}, {"vm", "[1 x1]", "missing"}, {"", "missing", "[1 x1]"},
		} {
			if !headless {
				step.plain = "missing"
			}
			endpoint := catalog.Endpoint{Addr: a, Ready: true, Hostname: step.hostname}
			z.Update([]Change{{Name: svc.Name, Service: svc, Slices: []*catalog.Slice{{Endpoints: []catalog.Endpoint{endpoint}}}}})
			for name, want := range map[string]string{"vm.web.ns.svc.cluster.local": step.named, "10-245-0-2.web.ns.svc.cluster.local": step.plain} {
				if got := state(t, z.Table(1), name); got != want {
					t.Errorf("%s, hostname %q: %s is %s, want %s", what, step.hostname, name, got, want)
				}
			}
		}
	}
}
