package bgp

import "github.com/prometheus/client_golang/prometheus"

var (
	upDesc        = prometheus.NewDesc("portico_bgp_session_up", "1 while the session with the peer is established.", []string{"peer"}, nil)
	announcedDesc = prometheus.NewDesc("portico_bgp_announced_prefixes", "Prefixes that the peer was told and takes the family of.", []string{"peer"}, nil)
	updatesDesc   = prometheus.NewDesc("portico_bgp_updates_sent_total", "UPDATE messages to the peer; it begins at zero with each session.", []string{"peer"}, nil)
	pathDesc      = prometheus.NewDesc("portico_bgp_bfd_up", "1 while BFD sees the path to the peer.", []string{"peer"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upDesc, announcedDesc, updatesDesc, pathDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (s *Speaker) Collect(out chan<- prometheus.Metric) {
	for _, p := range s.State().Peers {
		out <- prometheus.MustNewConstMetric(upDesc, prometheus.GaugeValue, number(p.Status == Established), p.Peer)
		out <- prometheus.MustNewConstMetric(announcedDesc, prometheus.GaugeValue, float64(len(p.Announced)), p.Peer)
		out <- prometheus.MustNewConstMetric(updatesDesc, prometheus.CounterValue, float64(p.Updates), p.Peer)
		if p.BFD != "" {
			out <- prometheus.MustNewConstMetric(pathDesc, prometheus.GaugeValue, number(p.BFD == "Up"), p.Peer)
		}
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
