package dns

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestMetrics: each query is counted once, where it was answered from.
func TestMetrics(t *testing.T) {
	up := startUpstream(t, func(w dns.ResponseWriter, m *dns.Msg) {
		reply := new(dns.Msg).SetReply(m)
		reply.Answer = []dns.RR{rr(t, m.Question[0].Name+" 60 IN A 198.51.100.9")}
		_ = w.WriteMsg(reply)
	})
	cfg := testConfig()
	cfg.Upstreams = []netip.AddrPort{up.addr}
	s := newServer(t, cfg)
	s.Replace(nil, cluster())
	at := serve(t, s)
	for _, q := range []struct {
		network, name string
		typ           uint16
	}{
		{"udp", "web.default.svc.cluster.local.", dns.TypeA},
		{"udp", "web.default.svc.cluster.local.", dns.TypeA},
		{"udp", "no.default.svc.cluster.local.", dns.TypeAAAA},
		{"tcp", "web.default.svc.cluster.local.", dns.TypeSRV},
		{"udp", "www.example.com.", dns.TypeA},
		{"udp", "www.example.com.", dns.TypeA},
		{"tcp", "www.example.com.", dns.TypeCAA},
	} {
		client := &dns.Client{Net: q.network}
		if _, _, err := client.Exchange(new(dns.Msg).SetQuestion(q.name, q.typ), at); err != nil {
			t.Fatalf("%s by %s: %v", q.name, q.network, err)
		}
	}
	const want = `
		# HELP portico_dns_queries_total Queries that were answered.
		# TYPE portico_dns_queries_total counter
		portico_dns_queries_total{rcode="NOERROR",transport="tcp",type="SRV"} 1
		portico_dns_queries_total{rcode="NOERROR",transport="tcp",type="other"} 1
		portico_dns_queries_total{rcode="NOERROR",transport="udp",type="A"} 4
		portico_dns_queries_total{rcode="NXDOMAIN",transport="udp",type="AAAA"} 1
		# HELP portico_dns_synced 1 when the cluster's names are answered.
		# TYPE portico_dns_synced gauge
		portico_dns_synced 1
	`
	// A query is counted when its answer is on its way, so the last may be missing yet.
	eventually(t, func() error {
		return testutil.CollectAndCompare(s.Collector(), strings.NewReader(want), "portico_dns_queries_total", "portico_dns_synced")
	})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	bySource := map[string]uint64{}
	for _, f := range families {
		if f.GetName() != "portico_dns_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			bySource[m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
		}
	}
	if bySource["cluster"] != 4 || bySource["cache"] != 1 || bySource["upstream"] != 2 || bySource["none"] != 0 {
		t.Errorf("by source: %v", bySource)
	}
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
