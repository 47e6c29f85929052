package iptables

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
)

// reach follows the draws from a chain and adds each backend's probability; it gives
// the most rules that a packet can meet.
func reach(t *testing.T, chains map[string][]string, from string, p float64, out map[string]float64) (longest int) {
	t.Helper()
	if len(from) > 28 {
		t.Errorf("the name %s is too long for a chain", from)
	}
	rules, ok := chains[from]
	if !ok {
		t.Fatalf("no chain %s", from)
	}
	if !ours(from) {
		t.Errorf("the name %s isn't known as ours", from)
	}
	left := p
	for i, r := range rules {
		words := strings.Fields(r)
		chance := 1.0
		for j, w := range words {
			if w == "--probability" {
				chance, _ = strconv.ParseFloat(words[j+1], 64)
			}
		}
		switch to := words[len(words)-1]; {
		case strings.HasPrefix(to, setPrefix):
			longest = max(longest, i+1+reach(t, chains, to, left*chance, out))
		case strings.Contains(r, "--to-destination"):
			out[to] += left * chance
			longest = max(longest, i+1)
		default:
			continue // the mark
		}
		left *= 1 - chance
	}
	if left > 1e-9 {
		t.Errorf("%s lets packets through with a probability of %g", from, left)
	}
	return longest
}

// DP-02: each backend of a set gets the same share, up to the 31 bits of a draw, and
// a packet meets few rules.
func TestDraws(t *testing.T) {
	for _, c := range []struct{ n, most int }{{1, 2}, {2, 40}, {3, 40}, {32, 40}, {33, 70}, {65, 70}, {96, 70}, {1025, 110}, {5000, 110}, {10000, 110}} {
		f := frontend(1, routing.ClusterIP, backendsOf(c.n, 1)...)
		s := &set{name: setName(f, f.Verdicts[0]), from: f}
		shares := map[string]float64{}
		longest := reach(t, s.render(1<<14), s.name, 1, shares)
		if len(shares) != c.n || longest > c.most {
			t.Errorf("%d backends: %d have a share, a packet meets up to %d rules", c.n, len(shares), longest)
		}
		for b, p := range shares {
			if math.Abs(p*float64(c.n)-1) > 1e-4 {
				t.Errorf("%d backends: %s gets %.6f of an even share", c.n, b, p*float64(c.n))
			}
		}
	}
}

// DP-03, DP-10: packets to backends on other nodes are marked, others aren't, with affinity
// and without; a set that one chain has room for is one chain.
func TestMarks(t *testing.T) {
	for _, affinity := range []time.Duration{0, time.Hour} {
		for _, n := range []int{1, 2, 10, fan, 3 * fan, 5000} {
			f := frontend(1, routing.ClusterIP, backendsOf(n, 1)...)
			f.Affinity = affinity
			s := &set{name: setName(f, f.Verdicts[0]), from: f}
			chains := s.render(1 << 14)
			if len(chains) > 1 && n <= fan {
				t.Errorf("%d backends are in %d chains", n, len(chains))
			}
			r := newReading()
			r.rules = map[chain][]string{}
			for name, rules := range chains {
				r.rules[chain{nat, name}] = rules
			}
			remote := map[netip.AddrPort]bool{}
			for _, slot := range (&shown{reading: r}).draws(s.name, false, &dataplane.Frontend{}) {
				remote[slot.AddrPort] = slot.Remote
			}
			for _, b := range f.Sets.Cluster {
				if is, there := remote[b.AddrPort]; !there || is == b.Local {
					t.Errorf("%d backends, affinity %v: %s, local %t: drawn %t, marked %t", n, affinity, b.AddrPort, b.Local, there, is)
				}
			}
			if at := slices.IndexFunc(chains[s.name], func(rule string) bool { return strings.Contains(rule, "--update") }); affinity > 0 && at < 0 {
				t.Errorf("%d backends: nobody is remembered", n)
			}
		}
	}
}

// DP-20: what changes with one of 10,000 Services doesn't grow with them, and after
// everything is gone nothing of it is planned.
func TestChangesAreSmall(t *testing.T) {
	f := newFamily(false, &Config{MasqueradeBit: 14})
	taken := func() (rules int, names []string) {
		updates := f.updates()
		for _, u := range updates {
			rules, names = rules+len(u.rules), append(names, u.name)
		}
		f.took(updates)
		return rules, names
	}
	var all []*routing.Frontend
	for i := range 10000 {
		all = append(all, frontend(i, routing.ClusterIP, backendsOf(4, i)...))
		if i < 2000 {
			all = append(all, frontend(i, routing.NodePort, backendsOf(4, i)...))
		}
	}
	for _, fe := range all {
		f.put(fe.Key, fe)
	}
	f.all()
	taken()
	one := frontend(7, routing.ClusterIP, backendsOf(3, 7)...)
	f.put(one.Key, one)
	if rules, names := taken(); rules > 10 {
		t.Errorf("one endpoint less rewrites %d rules, %v", rules, names)
	}
	f.put(one.Key, nil)
	if rules, names := taken(); rules > 200 {
		t.Errorf("a Service less rewrites %d rules, %v", rules, names)
	}
	for _, fe := range all {
		f.put(fe.Key, nil)
	}
	taken()
	for c := range f.held {
		if strings.HasPrefix(c.name, setPrefix) || strings.Count(c.name, "-") > 1 {
			t.Errorf("chain %s is still there", c.name)
		}
	}
	if len(f.sets) > 0 {
		t.Errorf("%d sets are still known", len(f.sets))
	}
}

// DP-10, DP-14, DP-07: what the leaf of a frontend says, as a reader finds it.
func TestRules(t *testing.T) {
	f := newFamily(false, &Config{MasqueradeBit: 14})
	web := frontend(1, routing.LoadBalancerIP, backendsOf(2, 1)...)
	web.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/26")}
	web.Affinity = time.Hour
	f.setNodes([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
	f.put(web.Key, web)
	found := map[string][]string{}
	for _, u := range f.updates() {
		found[u.name] = u.rules
	}
	to, guard := target(web, false), guardName(web.Key, false)
	for name, want := range map[string][]string{
		servicesTree + "-10": {`-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m comment --comment "default/s1:http" -j ` + guard},
		closedTree + "-10":   {`-d 10.96.0.1/32 -p tcp -m tcp --dport 80 -m comment --comment "default/s1:http" -j DROP`},
		guard:                {"-s 10.96.0.1/32 -j " + to, "-s 192.0.2.0/26 -j " + to, "-j ACCEPT"},
	} {
		if fmt.Sprint(found[name]) != fmt.Sprint(want) {
			t.Errorf("%s is %q, want %q", name, found[name], want)
		}
	}
	if rules := found[to]; len(rules) != 4 || !strings.Contains(rules[0], "--update --seconds 3600 --reap") || !strings.Contains(rules[2], "--set") {
		t.Errorf("the set is %q, want two look-ups and two draws that remember", rules)
	}
}

// What iptables-save prints comes from others; nothing of it may end the program, and
// what we write is read as the same.
func FuzzParse(f *testing.F) {
	f.Add([]byte("*nat\n:PREROUTING ACCEPT [0:0]\n:PORTICO-PRE - [0:0]\n-A PREROUTING -j PORTICO-PRE\n-A PORTICO-PRE -j ACCEPT\nCOMMIT\n"))
	f.Add([]byte(":PORTICO-MINE - [0:0]\n-A "))
	f.Add([]byte(":PORTICO-\n-A PORTICO-PRE\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := newReading()
		if err := r.parse(nat, text); err != nil {
			return
		}
		for c := range r.held {
			if !ours(c.name) {
				t.Errorf("%q is taken for ours", c.name)
			}
		}
		for i := range hooks {
			if r.present(i) < 0 {
				t.Error("fewer than no jumps")
			}
		}
	})
}
