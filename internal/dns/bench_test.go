package dns

import (
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"portico.dev/portico/internal/agent"
)

func BenchmarkAnswer(b *testing.B) {
	s := newServer(b, testConfig())
	views := cluster()
	for i := range 10_000 {
		views = append(views, view(service(fmt.Sprintf("ns%d", i%50), fmt.Sprintf("svc-%d", i), netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}).String())))
	}
	s.Replace(nil, views)
	for _, bb := range []struct {
		name string
		typ  uint16
	}{
		{"svc-77.ns27.svc.cluster.local.", dns.TypeA},
		{"store.db.svc.cluster.local.", dns.TypeA},
		{"_sql._tcp.store.db.svc.cluster.local.", dns.TypeSRV},
		{"www.example.com.default.svc.cluster.local.", dns.TypeA},
		{"20.0.96.10.in-addr.arpa.", dns.TypePTR},
		{"1-2-3-4.default.pod.cluster.local.", dns.TypeA},
	} {
		b.Run(bb.name+dns.TypeToString[bb.typ], func(b *testing.B) {
			wire, _ := new(dns.Msg).SetQuestion(bb.name, bb.typ).SetEdns0(1232, false).Pack()
			out := make([]byte, 0, maxTCP)
			var q query
			b.ReportAllocs()
			for b.Loop() {
				s.answer(out, wire, guest, false, &q)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "qps")
		})
	}
}

// BenchmarkNews gives the time from a changed Service to the first new answer, while the
// collector runs as it does in a server alone.
func BenchmarkNews(b *testing.B) {
	for _, n := range []int{1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			defer debug.SetGCPercent(debug.SetGCPercent(40))
			s := newServer(b, testConfig())
			var views []agent.View
			for i := range n {
				views = append(views, view(service(fmt.Sprintf("ns%d", i%50), fmt.Sprintf("svc-%d", i), netip.AddrFrom4([4]byte{10, 97, byte(i >> 8), byte(i)}).String())))
			}
			s.Replace(nil, views)
			wire, _ := new(dns.Msg).SetQuestion("news.ns0.svc.cluster.local.", dns.TypeA).Pack()
			news := view(service("ns0", "news", "10.98.0.1"))
			out := make([]byte, 0, maxUDP+slack)
			var q query
			var times []time.Duration
			for b.Loop() {
				began := time.Now()
				s.Update([]agent.View{news})
				reply, _ := s.answer(out, wire, guest, false, &q)
				times = append(times, time.Since(began))
				if reply[7] != 1 {
					b.Fatal("no answer")
				}
				s.Update([]agent.View{{Name: news.Name}})
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds()), "p99-ns")
			b.ReportAllocs()
		})
	}
}
