package dns

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"portico.dev/portico/internal/core/records"
)

// The ways by which queries come.
const (
	udpTransport = iota
	tcpTransport
	tlsTransport
	transports
)

var transportNames = [transports]string{"udp", "tcp", "tls"}

// source says where an answer comes from.
type source uint8

const (
	fromNowhere  source = iota // refused, or not understood
	fromCluster                // the zone's own records
	fromCache                  // a foreign name that was remembered
	fromUpstream               // somebody else was asked
	sources
)

var sourceNames = [sources]string{"none", "cluster", "cache", "upstream"}

// The types and codes that are counted by their names; others together.
var (
	typeNames  = [...]string{"other", "A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "NS", "SOA", "MX", "HTTPS"}
	rcodeNames = [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "other"}
)

// typeOf gives the index in typeNames.
func typeOf(typ uint16) uint8 {
	switch typ {
	case records.TypeA:
		return 1
	case records.TypeAAAA:
		return 2
	case records.TypeSRV:
		return 3
	case records.TypePTR:
		return 4
	case records.TypeCNAME:
		return 5
	case records.TypeTXT:
		return 6
	case records.TypeNS:
		return 7
	case records.TypeSOA:
		return 8
	case typeMX:
		return 9
	case typeHTTPS:
		return 10
	}
	return 0
}

// durationBounds are in the shape of what is measured: a name of the cluster takes some
// microseconds, one of upstream some milliseconds.
var durationBounds = [...]time.Duration{
	10 * time.Microsecond, 25 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 250 * time.Microsecond,
	time.Millisecond, 5 * time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond, 500 * time.Millisecond, 2 * time.Second,
}

// counts are what a socket's goroutine counts, for itself: what all shared would move
// between the processors with each query. They are added up when somebody asks.
type counts struct {
	transport uint8

	mu        sync.Mutex // guards the following; it is taken once for all that came together
	queries   [len(typeNames)][len(rcodeNames)]uint64
	durations [sources]histogram
}

type histogram struct {
	buckets [len(durationBounds) + 1]uint64
	sum     time.Duration
}

func (h *histogram) add(o *histogram) {
	for i, n := range o.buckets {
		h.buckets[i] += n
	}
	h.sum += o.sum
}

// noted is what is counted of a query.
type noted struct {
	typ, rcode uint8
	source     source
}

func note(q *query, reply []byte) noted {
	return noted{typeOf(q.typ), min(reply[3]&0xF, uint8(len(rcodeNames)-1)), q.source}
}

// add counts queries that were answered together, and so took the same time.
func (c *counts) add(took time.Duration, all ...noted) {
	bucket := 0
	for bucket < len(durationBounds) && took > durationBounds[bucket] {
		bucket++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range all {
		c.queries[n.typ][n.rcode]++
		h := &c.durations[n.source]
		h.buckets[bucket]++
		h.sum += took
	}
}

// newCounts makes those of one more socket.
func (s *Server) newCounts(transport uint8) *counts {
	c := &counts{transport: transport}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = append(s.counts, c)
	return c
}

func (s *Server) allCounts() []*counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.Clone(s.counts)
	for i := range s.slow {
		all = append(all, &s.slow[i])
	}
	return all
}

// Queries is how many were answered since the start.
func (s *Server) Queries() (n uint64) {
	for _, c := range s.allCounts() {
		c.mu.Lock()
		for t := range c.queries {
			for _, answered := range c.queries[t] {
				n += answered
			}
		}
		c.mu.Unlock()
	}
	return n
}

// Collector gives the metrics of the server.
func (s *Server) Collector() prometheus.Collector { return collector{s} }

type collector struct{ s *Server }

var (
	queriesDesc = prometheus.NewDesc("portico_dns_queries_total", "Queries that were answered.", []string{"transport", "type", "rcode"}, nil)
	secondsDesc = prometheus.NewDesc("portico_dns_duration_seconds", "Time from a query's arrival to its answer's leaving, by where the answer came from.", []string{"source"}, nil)
	namesDesc   = prometheus.NewDesc("portico_dns_names", "Names that the cluster's records have.", nil, nil)
	syncedDesc  = prometheus.NewDesc("portico_dns_synced", "1 when the cluster's names are answered.", nil, nil)
	changedDesc = prometheus.NewDesc("portico_dns_last_change_timestamp_seconds", "When the cluster's records changed last.", nil, nil)
)

// Describe implements prometheus.Collector.
func (collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{queriesDesc, secondsDesc, namesDesc, syncedDesc, changedDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	var queries [transports][len(typeNames)][len(rcodeNames)]uint64
	var durations [sources]histogram
	for _, one := range c.s.allCounts() {
		one.mu.Lock()
		for t := range one.queries {
			for r, n := range one.queries[t] {
				queries[one.transport][t][r] += n
			}
		}
		for i := range one.durations {
			durations[i].add(&one.durations[i])
		}
		one.mu.Unlock()
	}
	for transport, types := range queries {
		for t, codes := range types {
			for r, n := range codes {
				if n > 0 {
					to <- prometheus.MustNewConstMetric(queriesDesc, prometheus.CounterValue, float64(n), transportNames[transport], typeNames[t], rcodeNames[r])
				}
			}
		}
	}
	for i, h := range durations {
		to <- h.metric(sourceNames[i])
	}
	st := c.s.state.Load()
	synced := 0.0
	if st.synced {
		synced = 1
	}
	to <- prometheus.MustNewConstMetric(namesDesc, prometheus.GaugeValue, float64(st.table.Size()))
	to <- prometheus.MustNewConstMetric(syncedDesc, prometheus.GaugeValue, synced)
	to <- prometheus.MustNewConstMetric(changedDesc, prometheus.GaugeValue, float64(st.since.UnixMilli())/1000)
}

func (h *histogram) metric(source string) prometheus.Metric {
	below, n := make(map[float64]uint64, len(durationBounds)), uint64(0)
	for i, bound := range durationBounds {
		n += h.buckets[i]
		below[bound.Seconds()] = n
	}
	n += h.buckets[len(durationBounds)]
	return prometheus.MustNewConstHistogram(secondsDesc, n, h.sum.Seconds(), below, source)
}
