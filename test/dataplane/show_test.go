package dataplane

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/iptables"
	"portico.dev/portico/internal/dataplane/ipvs"
	"portico.dev/portico/internal/dataplane/nftables"
)

// reader reads the node's kernel as a second program would.
func (w *world) reader() *nftables.Reader {
	w.t.Helper()
	var r *nftables.Reader
	err := w.node.Do(func() (err error) {
		r, err = nftables.OpenReader()
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return r
}

// site is what Verify must know of the node.
func (w *world) site() dataplane.Site {
	return dataplane.Site{Workloads: w.config.WorkloadRanges, Own: w.config.HairpinSources}
}

// shown writes one frontend as a line.
func shown(f *dataplane.Frontend) string {
	way := func(w dataplane.Way) string {
		if w.Lost {
			return "lost"
		}
		if w.Count == 0 {
			return w.Action.String()
		}
		return fmt.Sprintf("%s %d", w.Action, w.Count)
	}
	slots := func(set []dataplane.Slot) string {
		var words []string
		for _, s := range set {
			word := s.AddrPort.String()
			if s.Remote {
				word += "*"
			}
			if s.Hairpin {
				word += "~"
			}
			words = append(words, word)
		}
		slices.Sort(words)
		return strings.Join(words, " ")
	}
	line := fmt.Sprintf("%s %s: %s | %s, cluster [%s] local [%s]", f.Kind, f.Key, way(f.Inside), way(f.Outside), slots(f.Cluster), slots(f.Local))
	if f.Affinity > 0 {
		line += " affinity " + f.Affinity.String()
	}
	if f.Guarded {
		line += fmt.Sprint(" from ", f.Admitted)
	}
	return line
}

// inspector reads the node's kernel as a second program would, by the technique of the
// suite.
func (w *world) inspector() dataplane.Inspector {
	w.t.Helper()
	var r dataplane.Inspector
	var err error
	switch technique {
	case nftablesTechnique:
		return w.reader()
	case iptablesTechnique:
		r, err = iptables.OpenReader(iptables.Config{MasqueradeBit: iptables.DefaultMasqueradeBit, Enter: w.node.Do})
	case ipvsTechnique:
		r, err = ipvs.OpenReader(ipvs.Config{MarkBit: iptables.DefaultMasqueradeBit, Scheduler: os.Getenv("PORTICO_TEST_IPVS_SCHEDULER"), Enter: w.node.Do})
	default:
		w.t.Fatalf("nothing reads back what %s has", technique)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return r
}

// tablesOfOurs is how each technique calls what it has.
var tablesOfOurs = map[string]string{
	nftablesTechnique: "[ip portico ip6 portico]",
	ipvsTechnique:     "[ip portico-ipvs ip6 portico-ipvs]",
	iptablesTechnique: "[iptables chains PORTICO-* (" + cmp.Or(os.Getenv("PORTICO_TEST_IPTABLES"), iptables.NFTables) + ")" +
		" ip6tables chains PORTICO-* (" + cmp.Or(os.Getenv("PORTICO_TEST_IPTABLES"), iptables.NFTables) + ")]",
}

// OPS-02: what the kernel holds can be read back whole, without knowing the plan.
func TestShow(t *testing.T) {
	w := newWorld(t)
	r := w.inspector()
	if c, err := r.Contents(w.t.Context()); err != nil || len(c.Tables) != 0 || len(c.Frontends) != 0 {
		t.Fatalf("before anything was written: %+v, %v", c, err)
	}
	here, there := onNode(guestA, 8080), onOther(guestC, 8080)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, tcpOnly: true, externalLocal: true, external: []dual{externalIP}}.with(here, there)
	sticky := service{name: "sticky", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 81, tcpOnly: true, affinity: time.Minute, balancer: []dual{balancerIP}, ranges: prefixes("192.0.2.64/26", "2001:db8::/61")}.with(here, there)
	none := service{name: "none", ip: pair("10.96.0.22", "fd00:10:96::22"), port: 82, tcpOnly: true}
	far := service{name: "far", ip: pair("10.96.0.23", "fd00:10:96::23"), port: 83, nodePort: 30083, tcpOnly: true, internalLocal: true, externalLocal: true}.with(there)
	w.replace(web.view(), sticky.view(), none.view(), far.view())
	c, err := r.Contents(w.t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(c.Tables, c.NodeAddresses, c.Services), tablesOfOurs[technique]+" [192.0.2.1 2001:db8::1] [10.96.0.0/12 fd00:10:96::/112]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	workloads := "[10.244.0.0/16 10.245.0.0/16 fd00:10:244::/56 fd00:10:245::/64]"
	if technique == nftablesTechnique { // two ranges that touch are one to the kernel
		workloads = "[10.244.0.0/15 fd00:10:244::/56 fd00:10:245::/64]"
	}
	if got, want := fmt.Sprint(c.Workloads), workloads; got != want {
		t.Errorf("workloads %s, want %s", got, want)
	}
	var lines []string
	for i := range c.Frontends {
		if !c.Frontends[i].Addr.Is6() {
			lines = append(lines, shown(&c.Frontends[i]))
		}
	}
	const both = "[10.245.0.2:8080~ 10.245.0.4:8080*]"
	want := []string{
		"nodePort TCP *:30080: cluster 2 | local 1, cluster " + both + " local [10.245.0.2:8080~]",
		"nodePort TCP *:30083: cluster 1 | drop, cluster [10.245.0.4:8080*] local []",
		"clusterIP TCP 10.96.0.20:80: cluster 2 | cluster 2, cluster " + both + " local []",
		"clusterIP TCP 10.96.0.21:81: cluster 2 | cluster 2, cluster " + both + " local [] affinity 1m0s",
		"clusterIP TCP 10.96.0.22:82: reject | reject, cluster [] local []",
		"clusterIP TCP 10.96.0.23:83: drop | drop, cluster [] local []",
		"externalIP TCP 198.51.100.1:80: cluster 2 | local 1, cluster " + both + " local [10.245.0.2:8080~]",
		"loadBalancerIP TCP 198.51.100.2:81: cluster 2 | cluster 2, cluster " + both + " local [] affinity 1m0s from [192.0.2.64/26]",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("the kernel shows\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if len(c.Frontends) != 2*len(want) {
		t.Errorf("%d frontends of both families, want %d", len(c.Frontends), 2*len(want))
	}
	if technique == nftablesTechnique {
		w.looksDamaged(r)
	}
}

// looksDamaged looks that a hole shows.
func (w *world) looksDamaged(r dataplane.Inspector) {
	w.t.Helper()
	w.stop()
	w.nft("delete element ip portico cluster-backends { 10.96.0.20 . tcp . 80 . 1 }")
	w.nft("delete element ip portico refused-services { 10.96.0.22 . tcp . 82 }")
	w.nft("add element ip portico services { 10.96.0.22 . tcp . 83 : 1:2 }")
	c, err := r.Contents(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range c.Frontends {
		switch f := &c.Frontends[i]; f.Key.String() {
		case "TCP 10.96.0.20:80":
			if len(f.Cluster) != 1 || f.Inside.Count != 2 {
				w.t.Errorf("a missing slot shows as %s", shown(f))
			}
		case "TCP 10.96.0.22:82":
			w.t.Errorf("a frontend of which nothing is left shows as %s", shown(f))
		case "TCP 10.96.0.22:83":
			if len(f.Cluster) != 0 || f.Inside.Count != 2 {
				w.t.Errorf("a foreign element shows as %s", shown(f))
			}
		}
	}
}

// OPS-02: open connections are counted by the address that clients use.
func TestShowConnections(t *testing.T) {
	w := newWorld(t)
	e := onNode(guestA, 8080)
	w.serve(w.a, e)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080}.with(e)
	w.replace(web.view())
	r := w.inspector()
	for _, v6 := range []bool{false, true} {
		for _, to := range []netip.AddrPort{nodeAddr.port(v6, 30080), web.ip.port(v6, 80), nodeAddr.port(v6, 30080)} {
			if _, err := w.outside.Ask("tcp", to); err != nil {
				t.Fatal(err)
			}
		}
	}
	c, err := r.Contents(w.t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counts, err := r.Connections(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for key, n := range counts {
		got[key.String()] = n
	}
	if want := "map[TCP *:30080:2 TCP 10.96.0.20:80:1 TCP [*]:30080:2 TCP [fd00:10:96::20]:80:1]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// OPS-02: each kind of difference between the plan and the kernel is told, by a second
// program that has never written there.
func TestVerifyTells(t *testing.T) {
	w := newWorld(t)
	r := w.reader()
	e := onNode(guestA, 8080)
	web := service{name: "web", ip: pair("10.96.0.20", "fd00:10:96::20"), port: 80, nodePort: 30080, tcpOnly: true}.with(e, onOther(guestC, 8080))
	sticky := service{name: "sticky", ip: pair("10.96.0.21", "fd00:10:96::21"), port: 81, tcpOnly: true, affinity: time.Minute}.with(e)
	guarded := service{name: "guarded", ip: pair("10.96.0.22", "fd00:10:96::22"), port: 82, tcpOnly: true, balancer: []dual{balancerIP}, ranges: prefixes("192.0.2.64/26", "2001:db8::/61")}.with(e)
	w.replace(web.view(), sticky.view(), guarded.view())
	state := w.plane.State()
	tells := func(state dataplane.State, want ...string) {
		t.Helper()
		got, err := r.Verify(t.Context(), w.site(), state)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
	}
	tells(state)
	// What a Backend keeps for the next that needs it is no difference.
	w.update(guarded.gone())
	tells(w.plane.State())
	w.update(guarded.view())
	less := state
	less.NodeAddresses = []netip.Addr{nodeAddr.v4}
	tells(less, "ip6 admitted-128: superfluous: 2001:db8:1::2/128 may use TCP [2001:db8:1::2]:82", "ip6 node-addresses: superfluous: 2001:db8::1")
	less = state
	less.ServiceRanges = prefixes("10.96.0.0/12")
	tells(less, "ip6 service-ranges: superfluous: fd00:10:96::", "ip6 service-ranges: superfluous: fd00:10:96::1:0")

	w.stop()
	for _, c := range []struct {
		damage []string
		want   []string
	}{
		{[]string{"delete element ip portico services { 10.96.0.20 . tcp . 80 }"}, []string{"ip services: missing: TCP 10.96.0.20:80: cluster-2"}},
		{[]string{"add element ip6 portico node-ports { tcp . 30099 : 3:2 }"}, []string{"ip6 node-ports: superfluous: TCP [*]:30099: node-cluster-2"}},
		{
			[]string{"delete element ip portico services { 10.96.0.20 . tcp . 80 }", "add element ip portico services { 10.96.0.20 . tcp . 80 : 1:1 }"},
			[]string{"ip services: different: TCP 10.96.0.20:80: cluster-1; wanted: TCP 10.96.0.20:80: cluster-2"},
		},
		{
			[]string{"delete element ip portico remote-backends { 10.245.0.4 }", "delete element ip portico hairpin { 10.245.0.2 . 10.245.0.2 }"},
			[]string{"ip hairpin: missing: 10.245.0.2", "ip remote-backends: missing: 10.245.0.4"},
		},
		{[]string{"flush set ip portico guarded-services"}, []string{"ip guarded-services: missing: TCP 198.51.100.2:82"}},
		{[]string{"flush set ip6 portico admitted-61"}, []string{"ip6 admitted-61: missing: 2001:db8::/61 may use TCP [2001:db8:1::2]:82"}},
		{[]string{"add rule ip portico output-unserved accept"}, []string{"ip: chain output-unserved has other rules: rule 4 is foreign"}},
		{[]string{"insert rule ip portico guard accept"}, []string{"ip: chain guard has other rules: rule 1 is foreign"}},
		{[]string{"flush chain ip6 portico postrouting"}, []string{"ip6: chain postrouting has other rules: 1 of our 1 are missing"}},
		{[]string{"delete chain ip portico guarding-output"}, []string{"ip: no chain guarding-output"}},
		{[]string{"add chain ip portico answer-ended { type filter hook prerouting priority -91; }"}, []string{
			"ip: chain answer-ended has other rules: 1 of our 1 are missing", "ip: chains for backends that are gone, and none is", "ip: no chain answer-ended-output",
		}},
		{[]string{"flush chain ip portico cluster-2"}, []string{"ip: chain cluster-2 has other rules: 1 of our 1 are missing"}},
		{[]string{"add chain ip portico mine", "add set ip portico mine { type ipv4_addr; }"}, []string{"ip: chain mine is not ours", "ip: set mine is not ours"}},
		{[]string{"add chain ip portico mine { type filter hook input priority 5; }"}, []string{"ip: chain mine is not ours"}},
	} {
		t.Run(c.damage[0], func(t *testing.T) {
			for _, d := range c.damage {
				w.nft(d)
			}
			got, err := r.Verify(t.Context(), w.site(), state)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("%v, got\n  %s\nwant\n  %s", err, strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
			}
			w.start() // repairs it
			w.replace(web.view(), sticky.view(), guarded.view())
			w.stop()
			tells(state)
		})
	}
	w.nft("delete table ip portico")
	got, err := r.Verify(t.Context(), w.site(), state)
	if err != nil || !slices.Contains(got, "ip: no table") || !slices.Contains(got, "ip services: missing: TCP 10.96.0.20:80: cluster-2") {
		t.Errorf("without a table: %v, %q", err, got)
	}
}
