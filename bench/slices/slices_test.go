package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"portico.dev/portico/bench/figure"
	"portico.dev/portico/bench/figure/figuretest"
)

// The short form measures a real server, writes every figure, and leaves nothing
// behind.
func TestShortFormMeasures(t *testing.T) {
	figuretest.Short(t, "bench-slices", run,
		"first_slices_100_seconds", "slice_p50_ms", "slice_p99_ms", "slice_burst_50_seconds",
		"first_slices_cpu_us", "slice_cpu_us", "slice_burst_cpu_us",
		"first_slices_writes", "slice_writes", "slice_burst_writes")
}

// A change has come when the last of the Services' slices says it, whatever other slices
// say, and however the connection cuts events into pieces.
func TestWatcherWaitsForTheLast(t *testing.T) {
	w := &watcher{}
	full := w.expect([]int{1, 2}, false)
	events := `{"type":"ADDED","object":{"metadata":{"labels":{"kubernetes.io/service-name":"s00001"}},"endpoints":[{"conditions":{"ready":false}}]}}
{"type":"ADDED","object":{"metadata":{"labels":{"kubernetes.io/service-name":"s00002"}},"endpoints":[{"conditions":{"ready":true}}]}}
{"type":"ADDED","object":{"metadata":{"labels":{"kubernetes.io/service-name":"s00003"}},"endpoints":[{"conditions":{"ready":false}}]}}
{"type":"ADDED","object":{"metadata":{"labels":{"kubernetes.io/service-name":"s00002"}},"endpoints":null}}
`
	last := `{"type":"MODIFIED","object":{"metadata":{"labels":{"kubernetes.io/service-name":"s00002"}},"endpoints":[{"conditions":{"ready":false}}]}}` + "\n"
	for _, piece := range []string{events[:100], events[100:], last[:50]} {
		if err := w.take([]byte(piece), time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	if len(full) > 0 {
		t.Fatal("too early")
	}
	at := time.Now()
	if err := w.take([]byte(last[50:]), at); err != nil || len(full) != 1 || <-full != at {
		t.Errorf("not at the last event (%v)", err)
	}
	if err := w.take([]byte(`{"type":"ERROR","object":{"code":410}}`+"\n"), at); err == nil {
		t.Error("a server's error is an event")
	}
}

func TestComputedFiguresAreRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench")
	const said = "goos: linux\nBenchmarkThousandServices-2   \t      10\t 250000000 ns/op\t 100 B/op\nBenchmarkOnePodOfThousandServices-2 \t 1000\t    500000 ns/op\t    300000 cpu-ns/op\t  10 B/op\n"
	if err := os.WriteFile(file, []byte(said), 0o600); err != nil {
		t.Fatal(err)
	}
	got := figure.Rounds{}
	if err := readComputed(file, got); err != nil || got[allComputed][0] != 0.25 || got[oneComputed][0] != 0.3 {
		t.Errorf("got %v, %v", got, err)
	}
	if err := os.WriteFile(file, []byte("FAIL\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readComputed(file, figure.Rounds{}); err == nil {
		t.Error("no figure is a figure")
	}
}
