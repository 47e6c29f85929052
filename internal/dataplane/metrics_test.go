package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"portico.dev/portico/internal/core/catalog"
)

// read gives a collector's metrics as "name{label=value} number"; of a histogram the
// number of observations, and their sum rounded to milliseconds.
func read(t *testing.T, c prometheus.Collector) map[string]string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "portico_")
			for _, l := range m.GetLabel() {
				name += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
			}
			switch {
			case m.Histogram != nil:
				out[name] = fmt.Sprintf("%d, %.3f s", m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum())
			case m.Counter != nil:
				out[name] = fmt.Sprint(m.GetCounter().GetValue())
			default:
				out[name] = fmt.Sprint(m.GetGauge().GetValue())
			}
		}
	}
	return out
}

// clocked is a Plane whose clock the test moves, and whose steps it makes itself.
func clocked(t *testing.T) (p *Plane, f *fake, pass func(time.Duration)) {
	t.Helper()
	now := time.Unix(1e9, 0)
	f = &fake{}
	p = New(f, Options{Now: func() time.Time { return now }})
	return p, f, func(d time.Duration) { now = now.Add(d) }
}

// triggered gives a view with a slice that was caused at a time after the start.
func triggered(name string, port uint16, after time.Duration) catalog.View {
	v := view(name, port)
	v.Slices = []*catalog.Slice{{Service: v.Name}, {Service: v.Name, IPv6: true, Trigger: time.Unix(1e9, 0).Add(after)}}
	return v
}

const latency = "network_programming_duration_seconds"

// OPS-01, EP-07: network programming latency is from the trigger to the kernel, once
// for each trigger of a change that the kernel must take.
func TestProgrammingLatency(t *testing.T) {
	p, f, pass := clocked(t)
	want := func(what, want string) {
		t.Helper()
		if got := read(t, p.Collector(nil))[latency]; got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	step := func() { _ = p.step(t.Context()) }
	p.Replace(here, []catalog.View{triggered("web", 81, -time.Minute), triggered("db", 91, -time.Second)})
	step()
	want("triggers before the start are another program's", "0, 0.000 s")

	pass(2 * time.Second)
	p.Update([]catalog.View{triggered("web", 82, 1500*time.Millisecond)})
	want("not in the kernel yet", "0, 0.000 s")
	pass(250 * time.Millisecond)
	step()
	want("one change", "1, 0.750 s")

	p.Update([]catalog.View{triggered("web", 83, 1500*time.Millisecond)})
	step()
	want("a change without a new trigger", "1, 0.750 s")

	p.Update([]catalog.View{triggered("web", 83, 2*time.Second)})
	step()
	want("a trigger that changes nothing here", "1, 0.750 s")

	f.fail = 1
	p.Update([]catalog.View{triggered("web", 84, 2250*time.Millisecond), triggered("db", 92, 2150*time.Millisecond)})
	step()
	want("a step that failed", "1, 0.750 s")
	pass(time.Second)
	step()
	want("its repetition", "3, 2.850 s")

	p.Update([]catalog.View{triggered("web", 85, 10*time.Second)})
	step()
	want("a clock that is ahead", "4, 2.850 s")
	p.Update([]catalog.View{view("web", 0), view("db", 0)})
	step()
	want("Services that go", "4, 2.850 s")
	if len(p.metrics.seen) != 0 || len(p.metrics.triggers) != 0 {
		t.Errorf("%d triggers of Services that are gone, %d that wait", len(p.metrics.seen), len(p.metrics.triggers))
	}
}

// OPS-01: what is served, how long the kernel took, failures and repairs.
func TestMetrics(t *testing.T) {
	p, f, _ := clocked(t)
	counts := Counts{Refused: [2]Refusals{{NoEndpoint: 3}, {Invalid: 4}}, Connections: 5, MaxConnections: 6}
	var broken error
	c := p.Collector(func() (Counts, error) { return counts, broken })
	check := func(want map[string]string) {
		t.Helper()
		got := read(t, c)
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if got[name] != want[name] {
				t.Errorf("%s is %q, want %q", name, got[name], want[name])
			}
		}
	}
	check(map[string]string{"dataplane_synced": "0", "dataplane_services": "0", "dataplane_repairs_total": "0", "dataplane_program_failures_total step=sync": "0"})
	p.Replace(here, []catalog.View{view("web", 81), view("db", 91)})
	check(map[string]string{"dataplane_synced": "0", "dataplane_services": "2"})
	f.fail = 1
	_ = p.step(t.Context())
	check(map[string]string{"dataplane_synced": "0", "dataplane_program_failures_total step=sync": "1", "dataplane_program_duration_seconds step=sync": "1, 0.000 s"})
	_ = p.step(t.Context())
	_ = p.finish(t.Context())
	p.Update([]catalog.View{view("web", 82)})
	_ = p.step(t.Context())
	check(map[string]string{
		"dataplane_synced": "1", "dataplane_program_duration_seconds step=sync": "2, 0.000 s",
		"dataplane_program_duration_seconds step=change": "1, 0.000 s", "dataplane_program_duration_seconds step=finish": "1, 0.000 s",
		"dataplane_refused_packets_total family=IPv4 reason=no_endpoint": "3", "dataplane_refused_packets_total family=IPv6 reason=invalid": "4",
		"conntrack_entries": "5", "conntrack_entries_limit": "6",
	})
	p.doubt()
	check(map[string]string{"dataplane_repairs_total": "1", "dataplane_synced": "0"})

	// A kernel that can't be read takes its own metrics away, and says so.
	broken = errors.New("no kernel today")
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err == nil || len(families) == 0 {
		t.Errorf("%d families, error %v", len(families), err)
	}
}

// An endpoint counts once, however many frontends lead to it.
func TestSize(t *testing.T) {
	p, _, _ := clocked(t)
	v := view("web", 80)
	v.Service.Ports[0].NodePort = 30080
	v.Slices = []*catalog.Slice{{
		Service: v.Name, Ports: []catalog.SlicePort{{Protocol: catalog.TCP, Port: 8080}},
		Endpoints: []catalog.Endpoint{{Addr: netip.MustParseAddr("10.245.0.2"), Ready: true}, {Addr: netip.MustParseAddr("10.245.0.3"), Ready: true}},
	}}
	p.Replace(here, []catalog.View{v, view("db", 90)})
	if got := sizeOf(p.State().Frontends); got != (tableSize{services: 2, frontends: 3, endpoints: 2}) {
		t.Errorf("%+v", got)
	}
}
