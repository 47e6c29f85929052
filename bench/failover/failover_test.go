package main

import (
	"errors"
	"net"
	"os"
	"testing"

	"portico.dev/portico/bench/figure/figuretest"
)

// The short form loses real nodes in each way, writes every figure, and leaves nothing
// behind.
func TestShortFormMeasures(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	var figures []string
	for _, kind := range kindNames() {
		figures = append(figures, "gap_ms_p50_"+kind, "gap_ms_p99_"+kind, "takeover_ms_worst_"+kind)
	}
	got := figuretest.Short(t, "bench-failover", run, append(figures, "planned_gap_ms_stop", "planned_gap_ms_drain", "all_1000_moved_seconds", "first_start_seconds")...)
	// The rest depends on the machine; this never does.
	for _, name := range []string{"planned_lost_requests", "first_start_double_ms"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s isn't counted", name)
		}
	}
}

// The API stays where it is on the LAN whoever is cut off, or nodes look for it at an
// address that nobody has.
func TestSwitchKeepsItsAddress(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	l, err := newLAN()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	address := func() string {
		link, err := l.sw.Links.LinkByName(uplink)
		if err != nil {
			t.Fatal(err)
		}
		return link.Attrs().HardwareAddr.String()
	}
	before := address()
	for _, n := range l.nodes {
		// The lowest there can be: a bridge likes those.
		err := errors.Join(l.sw.Links.LinkSetHardwareAddr(n.port, net.HardwareAddr{0x02, 0, 0, 0, 0, 1}), l.unplug(n.port))
		if now := address(); err != nil || now != before {
			t.Errorf("without node %s: %v, the API is at %s, was at %s", n.name, err, now, before)
		}
		if err := l.plug(n.port); err != nil || address() != before {
			t.Errorf("with node %s again: %v, the API is at %s, was at %s", n.name, err, address(), before)
		}
	}
}

func TestFiguresOfLosses(t *testing.T) {
	r := newResults(&plan{})
	for _, ms := range []float64{300, 200, 400} {
		r.put("gap_ms_link", ms)
		r.put("metallb_gap_ms_link", 10*ms)
	}
	r.add("planned_lost_requests", 0)
	r.add("planned_lost_requests", 2)
	got := r.values()
	for name, want := range map[string]float64{
		"gap_ms_p50_link": 300, "gap_ms_p99_link": 400, "gap_ms_worst_link": 400, "metallb_gap_ms_p50_link": 3000, "planned_lost_requests": 2,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v; all of them: %v", name, got[name], want, got)
		}
	}
}

func TestFlags(t *testing.T) {
	for _, args := range [][]string{{"-kinds", "flood"}, {"-services", "0"}, {"-services", "2048"}, {"more"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v are taken", args)
		}
	}
	p, err := parse([]string{"-short", "-losses", "7"})
	if err != nil || p.times != 7 || p.moves != 1 {
		t.Errorf("the short form with -losses 7 is %+v, %v", p, err)
	}
}
