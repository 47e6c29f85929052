package election

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/announcing"
	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/metallb"
)

var vip = netip.MustParseAddr("192.0.2.200")

func words(s ...string) []string { return s }

// LB-02, LB-03: who holds an address, in every situation.
func TestDecide(t *testing.T) {
	first := Rank(vip, words("a", "b", "c"))
	for what, c := range map[string]struct {
		ballot Ballot
		want   Decision
	}{
		"nobody lives":                     {Ballot{}, Decision{"", Nobody}},
		"nobody has it":                    {Ballot{Candidates: words("a", "b", "c")}, Decision{first[0], Elected}},
		"the first doesn't take it":        {Ballot{Candidates: words("a", "b", "c"), Passed: 1}, Decision{first[1], Elected}},
		"nor does anybody":                 {Ballot{Candidates: words("a", "b", "c"), Passed: 3}, Decision{first[0], Elected}},
		"who comes back steals nothing":    {Ballot{Candidates: words("a", "b", "c"), Claims: []Claim{{first[2], 4, false}}}, Decision{first[2], Claimed}},
		"a claim counts, candidate or not": {Ballot{Candidates: words("b"), Claims: []Claim{{"a", 1, false}}}, Decision{"a", Claimed}},
		"the later take-over wins":         {Ballot{Candidates: words("a", "b"), Claims: []Claim{{"a", 1, false}, {"b", 2, false}}}, Decision{"b", Claimed}},
		"of two at once the better rank":   {Ballot{Claims: []Claim{{first[1], 2, false}, {first[0], 2, false}}}, Decision{first[0], Claimed}},
		"who yields hands over":            {Ballot{Candidates: words("a", "b"), Claims: []Claim{{"a", 9, true}}}, Decision{"b", Elected}},
		"and is silent once it's taken":    {Ballot{Candidates: words("a", "b"), Claims: []Claim{{"a", 9, true}, {"b", 10, false}}}, Decision{"b", Claimed}},
		"nobody to hand over to":           {Ballot{Claims: []Claim{{"a", 9, true}}}, Decision{"a", Yielded}},
		"draining nodes come last":         {Ballot{Candidates: words("c"), Reserve: words("a", "b")}, Decision{"c", Elected}},
		"but they come":                    {Ballot{Reserve: words("b")}, Decision{"b", Elected}},
	} {
		c.ballot.Address = vip
		if got := Decide(c.ballot); got != c.want {
			t.Errorf("%s: %+v, want %+v", what, got, c.want)
		}
	}
}

// LB-03: nodes that know the same in another order decide the same; the loss of a node
// moves its addresses only, evenly to the others.
func TestDecideProperties(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	nodes := words("a", "b", "c", "d", "e")
	const addresses = 1000
	holds, moved := map[string]int{}, map[string]int{}
	a := netip.MustParseAddr("198.51.100.0")
	for range addresses {
		a = a.Next()
		b := Ballot{Address: a, Candidates: slices.Clone(nodes)}
		holder := Decide(b).Holder
		holds[holder]++
		for _, lost := range nodes {
			after := Decide(Ballot{Address: a, Candidates: slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == lost })}).Holder
			if lost != holder && after != holder {
				t.Fatalf("%s moved from %s to %s when %s was lost", a, holder, after, lost)
			}
			if lost == holder && lost == "a" {
				moved[after]++
			}
		}
		for range 3 {
			b.Claims = nil
			for _, n := range nodes {
				if random.IntN(2) == 0 {
					b.Claims = append(b.Claims, Claim{n, uint64(random.IntN(3)), random.IntN(2) == 0})
				}
			}
			want := Decide(b)
			random.Shuffle(len(b.Claims), func(i, j int) { b.Claims[i], b.Claims[j] = b.Claims[j], b.Claims[i] })
			random.Shuffle(len(b.Candidates), func(i, j int) { b.Candidates[i], b.Candidates[j] = b.Candidates[j], b.Candidates[i] })
			if got := Decide(b); got != want {
				t.Fatalf("%+v: %+v and %+v", b, got, want)
			}
		}
	}
	for _, n := range nodes {
		if share := addresses / len(nodes); holds[n] < share*3/4 || holds[n] > share*5/4 {
			t.Errorf("%s has %d of %d addresses", n, holds[n], addresses)
		}
		if n != "a" && moved[n] < holds["a"]/8 {
			t.Errorf("%s gets %d of the %d addresses of a lost node", n, moved[n], holds["a"])
		}
	}
}

// The weight is a contract between nodes of different versions.
func TestWeightNeverChanges(t *testing.T) {
	if got := fmt.Sprintf("%x", weight(vip, "node-a")); got != "eb6bb1394c7075c8" {
		t.Errorf("weight %s", got)
	}
}

func service(name string, local bool, addr netip.Addr, pool *metallb.IPAddressPool, readyOn ...string) announcing.Service {
	slice := &catalog.Slice{IPv6: addr.Is6()}
	for _, n := range readyOn {
		slice.Endpoints = append(slice.Endpoints, catalog.Endpoint{Node: n, Ready: true})
	}
	return announcing.Service{
		View:      catalog.View{Name: types.NamespacedName{Namespace: "default", Name: name}, Service: &catalog.Service{ExternalLocal: local}, Slices: []*catalog.Slice{slice}},
		Labels:    map[string]string{"app": name},
		Addresses: []announcing.Address{{Addr: addr, Pool: pool}},
	}
}

// LB-02, LB-05, LB-07: who may hold an address, who not, and why.
func TestContests(t *testing.T) {
	pool := &metallb.IPAddressPool{ObjectMeta: metav1.ObjectMeta{Name: "lan"}}
	zone := func(z string) []metav1.LabelSelector {
		return []metav1.LabelSelector{{MatchLabels: map[string]string{"zone": z}}}
	}
	members := map[string]Member{}
	for _, n := range words("a", "b", "c", "d") {
		members[n] = Member{Name: n, Links: words("eth0", "eth1")}
	}
	members["d"] = Member{Name: "d", Links: words("eth0")}
	nodes := func(change func(n *announcing.Node)) (out []announcing.Node) {
		for _, name := range words("a", "b", "c", "d", "e") {
			n := announcing.Node{Name: name, Labels: map[string]string{"zone": "z1"}}
			if name == "c" {
				n.Labels["zone"] = "z2"
			}
			if change != nil {
				change(&n)
			}
			out = append(out, n)
		}
		return out
	}
	advert := func(spec metallb.L2AdvertisementSpec) *metallb.L2Advertisement {
		return &metallb.L2Advertisement{Spec: spec}
	}
	all := advert(metallb.L2AdvertisementSpec{})
	for what, c := range map[string]struct {
		adverts  []*metallb.L2Advertisement
		services []announcing.Service
		nodes    []announcing.Node
		want     string // candidates, reserve, links
		left     map[string]string
	}{
		"all": {[]*metallb.L2Advertisement{all}, []announcing.Service{service("web", false, vip, pool)}, nodes(nil), "[a b c d] [] [eth0 eth1]", map[string]string{"e": notHeard}},
		"node selectors": {
			[]*metallb.L2Advertisement{advert(metallb.L2AdvertisementSpec{NodeSelectors: zone("z2")})},
			[]announcing.Service{service("web", false, vip, pool)},
			nodes(nil), "[c] [] []",
			map[string]string{"a": notChosen, "b": notChosen, "d": notChosen, "e": notChosen},
		},
		"interfaces": {
			[]*metallb.L2Advertisement{advert(metallb.L2AdvertisementSpec{Interfaces: words("eth1", "eth9")})},
			[]announcing.Service{service("web", false, vip, pool)},
			nodes(nil), "[a b c] [] [eth1]",
			map[string]string{"d": noLink, "e": notHeard},
		},
		"two advertisements add up": {
			[]*metallb.L2Advertisement{advert(metallb.L2AdvertisementSpec{Interfaces: words("eth1"), NodeSelectors: zone("z1")}), advert(metallb.L2AdvertisementSpec{NodeSelectors: zone("z2")})},
			[]announcing.Service{service("web", false, vip, pool)},
			nodes(nil), "[a b c] [] [eth1]",
			map[string]string{"d": noLink, "e": notHeard},
		},
		"Local":                     {[]*metallb.L2Advertisement{all}, []announcing.Service{service("web", true, vip, pool, "b", "d")}, nodes(nil), "[b d] [] [eth0 eth1]", map[string]string{"a": noBackend, "c": noBackend, "e": notHeard}},
		"Local without an endpoint": {[]*metallb.L2Advertisement{all}, []announcing.Service{service("web", true, vip, pool)}, nodes(nil), "[] [] [eth0 eth1]", map[string]string{"a": noBackend, "b": noBackend, "c": noBackend, "d": noBackend, "e": notHeard}},
		"shared by two that are Local": {
			[]*metallb.L2Advertisement{all},
			[]announcing.Service{service("dns", true, vip, pool, "b", "c"), service("web", true, vip, pool, "b", "d")},
			nodes(nil), "[b] [] [eth0 eth1]",
			map[string]string{"a": noBackend, "c": noBackend, "d": noBackend, "e": notHeard},
		},
		"shared with no node in common": {
			[]*metallb.L2Advertisement{all},
			[]announcing.Service{service("dns", true, vip, pool, "c"), service("web", true, vip, pool, "d")},
			nodes(nil), "[c d] [] [eth0 eth1]",
			map[string]string{"a": noBackend, "b": noBackend, "e": notHeard},
		},
		"excluded and draining": {
			[]*metallb.L2Advertisement{all},
			[]announcing.Service{service("web", false, vip, pool)},
			nodes(func(n *announcing.Node) { n.Excluded, n.Draining = n.Name == "a", n.Name == "b" }), "[c d] [b] [eth0 eth1]",
			map[string]string{"a": excluded, "e": notHeard},
		},
		"nobody announces the pool": {
			[]*metallb.L2Advertisement{advert(metallb.L2AdvertisementSpec{IPAddressPools: words("dmz")})}, []announcing.Service{service("web", false, vip, pool)}, nodes(nil), "", nil,
		},
		"another Service is selected": {
			[]*metallb.L2Advertisement{advert(metallb.L2AdvertisementSpec{ServiceSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"app": "dns"}}}})},
			[]announcing.Service{service("web", false, vip, pool)},
			nodes(nil), "", nil,
		},
	} {
		in := &announcing.Input{Self: "a", Nodes: c.nodes, Services: c.services, Config: &metallb.Config{L2Advertisements: c.adverts}}
		got := Contests(in, members)
		text, left := "", map[string]string(nil)
		if len(got) == 1 {
			text, left = fmt.Sprint(got[0].Candidates, got[0].Reserve, got[0].Links), got[0].LeftOut
		}
		if text != c.want || fmt.Sprint(left) != fmt.Sprint(c.left) {
			t.Errorf("%s: %s, left out %v; want %s, %v", what, text, left, c.want, c.left)
		}
	}
}
