package main

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"portico.dev/portico/bench/figure"
	"portico.dev/portico/bench/process"
)

// results collects readings of figures by their names.
type results struct {
	plan  *plan
	begin time.Time

	mu       sync.Mutex // guards the following
	readings map[string][]float64
	notes    []string
}

func newResults(p *plan) *results {
	return &results{plan: p, begin: time.Now(), readings: map[string][]float64{}}
}

// put adds readings of a figure.
func (r *results) put(name string, values ...float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.readings[name] = append(r.readings[name], values...)
}

func (r *results) note(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, text)
}

func (r *results) memory(c contender, when string, m process.Memory) {
	r.put(c.agent+"rss_mb_"+when, m.Resident)
	r.put(c.agent+"rss_anon_mb_"+when, m.Anonymous)
}

func (r *results) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.0fs "+format+"\n", append([]any{time.Since(r.begin).Seconds()}, args...)...)
}

// short names a number of Services in a figure's name: 10, 1k, 10k.
func short(size int) string {
	if size%1000 == 0 {
		return fmt.Sprintf("%dk", size/1000)
	}
	return strconv.Itoa(size)
}

// medians gives each figure, and those that are made of others.
func (r *results) medians() map[string]float64 {
	out := map[string]float64{}
	for name, all := range r.readings {
		out[name] = figure.Median(all)
	}
	// A figure without a size is the worst of all its circumstances.
	for _, prefix := range []string{"", "iptables_legacy_", "iptables_nft_", "kubeproxy_", "kubeproxy_iptables_legacy_", "kubeproxy_iptables_nft_"} {
		for _, name := range []string{prefix + "api_to_packet_p99_ms", prefix + "event_to_packet_p99_ms"} {
			for full, value := range maps.All(out) {
				if strings.HasPrefix(full, name+"_") {
					out[name] = max(out[name], value)
				}
			}
		}
	}
	var least, most float64
	for name, value := range out {
		if strings.HasPrefix(name, "one_endpoint_us_nft_") {
			out["one_endpoint_us_nft"] = max(out["one_endpoint_us_nft"], value)
		}
		if strings.HasPrefix(name, "nft_crr_cpu_ratio_") {
			if least == 0 || value < least {
				least = value
			}
			most = max(most, value)
		}
	}
	if least > 0 {
		out["nft_crr_flat"] = most / least
	}
	return out
}

// goal is what a figure should be at most: a number, or a part of another figure.
type goal struct {
	name  string
	limit float64
	of    string
}

var goals = []goal{
	{"nft_crr_cpu_ratio_10", 1.28, ""},
	{"nft_crr_cpu_ratio_1k", 1.28, ""},
	{"nft_crr_cpu_ratio_10k", 1.28, ""},
	{"nft_crr_cpu_ratio_30k", 1.28, ""},
	{"nft_crr_flat", 1.03, ""}, // what repeats of one size differ by
	{"nft_crr_cpu_ratio_10", 1, "kubeproxy_nft_crr_cpu_ratio_10"},
	{"nft_crr_cpu_ratio_1k", 1, "kubeproxy_nft_crr_cpu_ratio_1k"},
	{"nft_crr_cpu_ratio_10k", 1, "kubeproxy_nft_crr_cpu_ratio_10k"},
	{"program_10k_seconds_nft", 1.5, ""},
	{"program_10k_kernel_seconds_nft", 0.6, ""},
	{"one_endpoint_us_nft", 100, ""},
	{"event_to_packet_p99_ms", 10, ""},
	{"api_to_packet_p99_ms", 30, ""},
	{"agent_rss_mb_10k", 120, ""},
	{"agent_rss_mb_10k_churn", 120, ""},
	{"agent_cpu_percent_1k_churn", 0.1, "kubeproxy_cpu_percent_1k_churn"},
	{"agent_cpu_percent_10k_churn", 0.1, "kubeproxy_cpu_percent_10k_churn"},
	{"restart_failed_connections", 0, ""},
	{"userspace_plain_proxy_gbits", 1.25, "userspace_gbits"}, // ours has 80 % of a plain proxy's
	{"userspace_cluster_ip_plain_proxy_gbits", 1.25, "userspace_cluster_ip_gbits"},
	{"userspace_idle_50k_mb", 400, ""},
	{"ipvs_program_1k_seconds", 0.5, "kubeproxy_ipvs_program_1k_seconds"},
	{"ipvs_program_10k_seconds", 0.5, "kubeproxy_ipvs_program_10k_seconds"},
	{"ipvs_api_to_packet_p50_ms_1k", 0.25, "kubeproxy_ipvs_api_to_packet_p50_ms_1k"},
	{"ipvs_api_to_packet_p50_ms_1k_churn", 0.25, "kubeproxy_ipvs_api_to_packet_p50_ms_1k_churn"},
	{"ipvs_api_to_packet_p50_ms_10k", 0.25, "kubeproxy_ipvs_api_to_packet_p50_ms_10k"},
	{"ipvs_api_to_packet_p50_ms_10k_churn", 0.25, "kubeproxy_ipvs_api_to_packet_p50_ms_10k_churn"},
	{"iptables_legacy_program_1k_seconds", 0.5, "kubeproxy_iptables_legacy_program_1k_seconds"},
	{"iptables_legacy_program_10k_seconds", 0.5, "kubeproxy_iptables_legacy_program_10k_seconds"},
	{"iptables_nft_program_1k_seconds", 0.5, "kubeproxy_iptables_nft_program_1k_seconds"},
	// With 10,000 the peer is measured on legacy alone, where it is faster.
	{"iptables_nft_program_10k_seconds", 0.5, "kubeproxy_iptables_legacy_program_10k_seconds"},
	{"iptables_legacy_api_to_packet_p50_ms_10k", 0.25, "kubeproxy_iptables_legacy_api_to_packet_p50_ms_10k"},
	{"iptables_legacy_api_to_packet_p50_ms_10k_churn", 0.25, "kubeproxy_iptables_legacy_api_to_packet_p50_ms_10k_churn"},
	{"iptables_nft_api_to_packet_p50_ms_10k", 0.25, "kubeproxy_iptables_legacy_api_to_packet_p50_ms_10k"},
	{"iptables_nft_api_to_packet_p50_ms_10k_churn", 0.25, "kubeproxy_iptables_legacy_api_to_packet_p50_ms_10k_churn"},
}

// judged is a goal with what was measured.
type judged struct {
	goal
	value, most float64
}

func (j judged) met() bool { return j.value <= j.most }

func (j judged) label() string {
	if j.of == "" {
		return j.name
	}
	return fmt.Sprintf("%s / %s", j.name, j.of)
}

// judge leaves out what wasn't measured.
func judge(medians map[string]float64) (out []judged) {
	for _, g := range goals {
		value, measured := medians[g.name]
		most := g.limit
		if g.of != "" {
			other, there := medians[g.of]
			most, measured = g.limit*other, measured && there
		}
		if measured {
			out = append(out, judged{g, value, most})
		}
	}
	return out
}

// ratios compare ours with the peer's figure of the same name.
func ratios(medians map[string]float64) map[string]float64 {
	out := map[string]float64{}
	for name, value := range medians {
		rest, ours := strings.CutPrefix(name, "agent_")
		peer := "kubeproxy_" + name
		if ours {
			peer = "kubeproxy_" + rest
		}
		if other := medians[strings.TrimSuffix(peer, "_nft")]; other > 0 {
			out[name] = figure.Round(value / other)
		}
	}
	return out
}

// write saves the medians, flat, so that a line of shell can read one, and prints what
// the goals say. What a run of some parts (-only) doesn't measure stays in the file.
func (r *results) write(out string) error {
	medians := r.medians()
	run := map[string]any{
		"time": r.begin.UTC().Format(time.RFC3339), "took_seconds": figure.Round(time.Since(r.begin).Seconds()), "services": r.plan.sizes,
		"connections_each_round": r.plan.connections, "sittings_crr": r.plan.sittings, "rounds_crr": r.plan.crrRounds, "rounds_program": r.plan.programRounds,
	}
	values := map[string]any{
		"processors": runtime.NumCPU(), "kernel": kernelVersion(), "endpoints_each": endpointsEach, "ratio": ratios(medians),
		"runs": map[string]any{strings.Join(r.plan.only, ","): run},
	}
	spread := map[string][2]float64{}
	for name, value := range medians {
		values[name] = figure.Round(value)
		if all := r.readings[name]; len(all) > 1 {
			spread[name] = [2]float64{figure.Round(slices.Min(all)), figure.Round(slices.Max(all))}
		}
	}
	met := map[string]bool{}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "figure\tmeasured\tat most\t")
	for _, j := range judge(medians) {
		met[j.label()] = j.met()
		verdict := "met"
		if !j.met() {
			verdict = "missed"
		}
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%s\n", j.label(), j.value, j.most, verdict)
	}
	values["spread"], values["goal_met"] = spread, met
	if len(r.notes) > 0 {
		values["notes"] = r.notes
	}
	raw, err := figure.Merge(out, values)
	if err != nil {
		return err
	}
	if out == "" {
		fmt.Println(string(raw))
	}
	return w.Flush()
}

// kernelVersion is uname(1)'s.
func kernelVersion() string {
	raw, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(raw))
}
