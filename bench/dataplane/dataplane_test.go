package main

import (
	"os"
	"slices"
	"testing"
	"time"

	"portico.dev/portico/bench/figure/figuretest"
)

// The short form measures real agents and packets, writes every figure that it can
// have, and leaves nothing behind.
func TestShortFormMeasures(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	got := figuretest.Short(t, "bench-dataplane", run,
		"plain_crr_cpu_us_10", "nft_crr_cpu_ratio_10", "nft_crr_cpu_ratio_200", "program_200_seconds_nft", "event_to_packet_p99_ms", "api_to_packet_p99_ms",
		"agent_rss_mb_200", "agent_cpu_percent_200_churn", "restart_connections", "restart_to_change_ms",
		"iptables_nft_program_200_seconds", "userspace_gbits", "userspace_plain_proxy_gbits")
	// The rest depends on the machine; this never does.
	if v := got["restart_failed_connections"]; v != 0.0 {
		t.Errorf("%v connections failed in restarts: %v", v, got["notes"])
	}
}

// The test binary is the program that measures, too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == insideCommand || os.Args[1] == plainCommand) {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestMediansAndGoals(t *testing.T) {
	r := newResults(&plan{})
	r.put("nft_crr_cpu_ratio_10", 1.2, 1.4, 1.1)
	r.put("kubeproxy_nft_crr_cpu_ratio_10", 1.25)
	r.put("nft_crr_cpu_ratio_10k", 1.32)
	r.put("api_to_packet_p99_ms_1k", 12)
	r.put("api_to_packet_p99_ms_10k_churn", 31)
	r.put("agent_rss_mb_10k", 90)
	r.put("kubeproxy_rss_mb_10k", 240)
	m := r.medians()
	if m["nft_crr_cpu_ratio_10"] != 1.2 || m["api_to_packet_p99_ms"] != 31 {
		t.Errorf("medians are %v", m)
	}
	if got := ratios(m); got["nft_crr_cpu_ratio_10"] != 0.96 || got["agent_rss_mb_10k"] != 0.375 {
		t.Errorf("ratios are %v", got)
	}
	met := map[string]bool{}
	for _, j := range judge(m) {
		met[j.label()] = j.met()
	}
	for label, want := range map[string]bool{
		"nft_crr_cpu_ratio_10": true, "nft_crr_cpu_ratio_10k": false, "nft_crr_cpu_ratio_10 / kubeproxy_nft_crr_cpu_ratio_10": true,
		"api_to_packet_p99_ms": false, "agent_rss_mb_10k": true,
	} {
		if got, judged := met[label]; !judged || got != want {
			t.Errorf("%s: met %v, judged %v", label, got, judged)
		}
	}
	if _, judged := met["one_endpoint_us_nft"]; judged {
		t.Error("a figure that nobody measured is judged")
	}
}

// A changed Service has as many endpoints as before, the first of which is another.
func TestChangedEndpoints(t *testing.T) {
	for n := range 2 * addressesEach {
		now, next := changed(3, n), changed(3, n+1)
		if len(now) != endpointsEach || now[0] == next[0] || !slices.Equal(now[1:], next[1:]) {
			t.Fatalf("change %d: %v, then %v", n, now, next)
		}
		for _, a := range now {
			if a.Less(endpoint(3, 0)) || !a.Less(endpoint(4, 0)) {
				t.Fatalf("change %d: %v isn't an address of the Service", n, a)
			}
		}
	}
}

func TestTraceOfCalls(t *testing.T) {
	// The second thread's calls have a beginning, or an end, outside the trace.
	const text = `  16783  9342.905000123: syscalls:sys_enter_sendto:
  16768  9342.905010000:  syscalls:sys_exit_sendmsg:
  16768  9342.905020000: syscalls:sys_enter_sendmsg:
  16783  9342.905085123:  syscalls:sys_exit_sendto:
  16783  9342.999990000: syscalls:sys_enter_sendmsg:
  16783  9343.000103000:  syscalls:sys_exit_sendmsg:
`
	got, err := parseCalls([]byte(text))
	if want := []time.Duration{85 * time.Microsecond, 113 * time.Microsecond}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}
