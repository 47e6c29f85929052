package main

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"portico.dev/portico/bench/figure/figuretest"
)

// The short form measures a real server, writes every figure, and leaves nothing
// behind.
func TestShortFormMeasures(t *testing.T) {
	if _, err := exec.LookPath("dnsperf"); err != nil {
		t.Skip("dnsperf isn't installed")
	}
	figuretest.Short(t, "bench-dns", run,
		"qps_per_cpu_names_200", "qps_per_cpu_mix_200", "p99_ms_200", "rss_mb_200", resolveP99, "echo_ratio")
}

// The test binary is the echo's process, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == echoCommand {
		main()
		return
	}
	os.Exit(m.Run())
}

// Of all sizes and loads the worst counts.
func TestGoalsTakeTheWorst(t *testing.T) {
	p := &plan{sizes: []int{10, 20}}
	own := map[string]float64{
		"qps_per_cpu_names_10": 500, "qps_per_cpu_names_20": 450, "qps_per_cpu_mix_10": 600, "qps_per_cpu_mix_20": 430,
		"p99_ms_10": 0.1, "p99_ms_20": 0.3, "rss_mb_10": 30, "rss_mb_20": 30,
		"resolve_after_watch_p99_ms_10": 0.4, "resolve_after_watch_p99_ms_20": 1.5, echoPerCPU: 1000,
	}
	peer := map[string]float64{
		"qps_per_cpu_names_10": 100, "qps_per_cpu_names_20": 100, "qps_per_cpu_mix_10": 100, "qps_per_cpu_mix_20": 100,
		"p99_ms_10": 0.4, "p99_ms_20": 0.4, "rss_mb_10": 80, "rss_mb_20": 200,
	}
	want := map[string]struct {
		value float64
		met   bool
	}{
		"qps_per_cpu_ratio": {4.3, true}, "p99_ratio": {0.75, false}, "rss_ratio": {0.375, true},
		resolveP99: {1.5, false}, "echo_ratio": {0.45, false},
	}
	goals := p.goals(own, peer)
	if len(goals) != len(want) {
		t.Errorf("%d goals", len(goals))
	}
	for _, g := range goals {
		if w := want[g.Name]; g.Value < w.value*0.999 || g.Value > w.value*1.001 || g.Met() != w.met {
			t.Errorf("%s is %v, met %v; want %v", g.Name, g.Value, g.Met(), w)
		}
	}
}

func TestTimesOfQueries(t *testing.T) {
	got, err := times([]byte("DNS Performance Testing Tool\n> NOERROR a.example A 0.000250\n> T a.example A\n> NXDOMAIN b.example A 0.001000\n  Queries sent: 3\n"))
	if err != nil || len(got) != 2 || got[0] != 250*time.Microsecond || got[1] != time.Millisecond {
		t.Errorf("got %v, %v", got, err)
	}
}
