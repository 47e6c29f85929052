package bgp

import "github.com/prometheus/client_golang/prometheus"

var (
	upDesc        = prometheus.NewDesc("portico_bgp_session_up", "1 while the session with the peer is established.", []string{"peer"}, nil)
	announcedDesc = prometheus.NewDesc("portico_bgp_announced_prefixes", "Prefixes that the peer was told and takes the family of.", []string{"peer"}, nil)
	updatesDesc   = prometheus.NewDesc("portico_bgp_updates_sent_total", "UPDATE messages to the peer; it begins at zero with each session.", []string{"peer"}, nil)
	beganDesc     = prometheus.NewDesc("portico_bgp_sessions_established_total", "Times that a session with the peer began.", []string{"peer"}, nil)
	lostDesc      = prometheus.NewDesc("portico_bgp_sessions_lost_total", "Times that the session with the peer broke, by who saw it: bfd or bgp.", []string{"peer", "by"}, nil)
	routesDesc    = prometheus.NewDesc("portico_bgp_routes_total", "Routes that the peer got and lost, the latter also with its session.", []string{"peer", "move"}, nil)
	pathDesc      = prometheus.NewDesc("portico_bgp_bfd_up", "1 while BFD sees the path to the peer.", []string{"peer"}, nil)
)

// Describe implements prometheus.Collector.
func (s *Speaker) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{upDesc, announcedDesc, updatesDesc, beganDesc, lostDesc, routesDesc, pathDesc} {
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
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for peer, c := range s.moves.counts {
		count(beganDesc, c.established, peer)
		count(lostDesc, c.lost, peer, "bgp")
		count(lostDesc, c.lostByBFD, peer, "bfd")
		count(routesDesc, c.announced, peer, "announced")
		count(routesDesc, c.withdrawn, peer, "withdrawn")
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
