package dataplane

import (
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	"portico.dev/portico/internal/core/catalog"
	"portico.dev/portico/internal/core/routing"
)

// Reason says why the kernel refuses packets.
type Reason string

// The reasons. Each is always answered in the same way: NoEndpoint and UnknownPort by
// a TCP reset or an ICMP error, the others by silence.
const (
	NoEndpoint      Reason = "no_endpoint"
	NoLocalEndpoint Reason = "no_local_endpoint" // a policy Local, and usable ones on other nodes
	OutsideRanges   Reason = "source_ranges"     // loadBalancerSourceRanges
	UnknownPort     Reason = "unknown_port"      // of an address that some Service has
	UnknownAddress  Reason = "unknown_address"   // in a range of cluster IPs
	Invalid         Reason = "invalid"           // for conntrack
	Astray          Reason = "astray"            // first packets of connections that conntrack knew before the backend
)

// Refusals are numbers of packets. A reason whose number can't be known is missing.
type Refusals map[Reason]uint64

// Counts are what the kernel counts by itself. They begin at zero when rules are made
// anew.
type Counts struct {
	Refused                     [2]Refusals // IPv4, IPv6
	Connections, MaxConnections uint64      // conntrack entries of the network namespace, anybody's
}

// steps of a Plane, as the label of its metrics names them.
const (
	stepSync   = "sync"   // all is compared with the kernel
	stepChange = "change" // what changed is carried over
	stepFinish = "finish" // flows end that lead nowhere
)

// metrics are what a Plane measures. Its own fields are guarded by Plane.mu.
type metrics struct {
	now      func() time.Time
	started  time.Time
	duration *prometheus.HistogramVec
	failures *prometheus.CounterVec
	latency  prometheus.Histogram
	repairs  prometheus.Counter

	// seen is the newest trigger of each Service that was noted, of those that
	// changed since the start.
	seen map[types.NamespacedName]time.Time
	// triggers are those whose change isn't in the kernel yet.
	triggers []time.Time
}

func newMetrics(now func() time.Time) *metrics {
	if now == nil {
		now = time.Now
	}
	m := &metrics{
		now: now, started: now(), seen: map[types.NamespacedName]time.Time{},
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "portico_dataplane_program_duration_seconds",
			Help: "Time that programming the kernel took: a comparison of everything (sync), a change (change), ending flows that lead nowhere any more (finish).",
			// From one endpoint to a start with many thousands of Services.
			Buckets: []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
		}, []string{"step"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "portico_dataplane_program_failures_total",
			Help: "Attempts to program the kernel that failed and are tried again.",
		}, []string{"step"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "portico_network_programming_duration_seconds",
			Help: "Time from the change of a Service or its pods (annotation endpoints.kubernetes.io/last-change-trigger-time) until new connections meet it. As kubeproxy_network_programming_duration_seconds.",
			// kube-proxy's begin at 0.25 s, where most of ours end.
			Buckets: []float64{.001, .002, .005, .01, .02, .03, .05, .1, .25, .5, 1, 2, 5, 10, 20, 30, 60, 120, 300},
		}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "portico_dataplane_repairs_total",
			Help: "Times that somebody else changed our part of the kernel, which was then compared and repaired.",
		}),
	}
	for _, step := range []string{stepSync, stepChange, stepFinish} { // a rate needs the zero
		m.failures.WithLabelValues(step)
	}
	return m
}

// noted takes the triggers of a view that changed the table. As kube-proxy does it
// leaves out those from before the start: what took so long then is not this
// program's. A Service keeps its slices' old triggers, so only newer ones count.
func (m *metrics) noted(v *catalog.View, changed bool) {
	if v.Service == nil {
		delete(m.seen, v.Name)
		return
	}
	seen := m.seen[v.Name]
	newest := seen
	for _, s := range v.Slices {
		if s.Trigger.After(m.started) && s.Trigger.After(seen) {
			if s.Trigger.After(newest) {
				newest = s.Trigger
			}
			if changed {
				m.triggers = append(m.triggers, s.Trigger)
			}
		}
	}
	if newest.After(seen) {
		m.seen[v.Name] = newest
	}
}

// take gives the triggers that the next step brings to the kernel.
func (m *metrics) take() []time.Time {
	t := m.triggers
	m.triggers = nil
	return t
}

// done notes a step. The triggers of one that failed wait for the next.
func (m *metrics) done(step string, begun time.Time, triggers []time.Time, err error) {
	now := m.now()
	m.duration.WithLabelValues(step).Observe(now.Sub(begun).Seconds())
	if err != nil {
		m.failures.WithLabelValues(step).Inc()
		m.triggers = append(triggers, m.triggers...)
		return
	}
	for _, t := range triggers {
		m.latency.Observe(max(0, now.Sub(t).Seconds())) // the other host's clock may be ahead
	}
}

func stepName(full bool) string {
	if full {
		return stepSync
	}
	return stepChange
}

// Collector gives the Plane's metrics, with those that the kernel counts itself; counts
// may be called by several goroutines at once, and nil says that there are none.
func (p *Plane) Collector(counts func() (Counts, error)) prometheus.Collector {
	return &collector{plane: p, counts: counts}
}

type collector struct {
	plane  *Plane
	counts func() (Counts, error)
}

var (
	servicesDesc    = prometheus.NewDesc("portico_dataplane_services", "Services that this node serves.", nil, nil)
	frontendsDesc   = prometheus.NewDesc("portico_dataplane_frontends", "Addresses, protocols and ports that this node serves.", nil, nil)
	endpointsDesc   = prometheus.NewDesc("portico_dataplane_endpoints", "Endpoints that get new connections, of each Service port and family.", nil, nil)
	syncedDesc      = prometheus.NewDesc("portico_dataplane_synced", "1 when the kernel has all that is wanted.", nil, nil)
	refusedDesc     = prometheus.NewDesc("portico_dataplane_refused_packets_total", "Packets that our rules refused. The number begins at zero when the rules are made anew.", []string{"reason", "family"}, nil)
	connectionsDesc = prometheus.NewDesc("portico_conntrack_entries", "Connections that the kernel tracks in this network namespace, all programs'.", nil, nil)
	limitDesc       = prometheus.NewDesc("portico_conntrack_entries_limit", "Connections that the kernel can track (nf_conntrack_max).", nil, nil)
)

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	m := c.plane.metrics
	for _, part := range []prometheus.Collector{m.duration, m.failures, m.latency, m.repairs} {
		part.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{servicesDesc, frontendsDesc, endpointsDesc, syncedDesc, refusedDesc, connectionsDesc, limitDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	m := c.plane.metrics
	for _, part := range []prometheus.Collector{m.duration, m.failures, m.latency, m.repairs} {
		part.Collect(ch)
	}
	gauge := func(d *prometheus.Desc, n int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	size := sizeOf(c.plane.State().Frontends)
	gauge(servicesDesc, size.services)
	gauge(frontendsDesc, size.frontends)
	gauge(endpointsDesc, size.endpoints)
	gauge(syncedDesc, c.plane.synced())
	if c.counts == nil {
		return
	}
	counts, err := c.counts()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(refusedDesc, err)
		return
	}
	for i, family := range []string{"IPv4", "IPv6"} {
		for why, n := range counts.Refused[i] {
			ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(n), string(why), family)
		}
	}
	gauge(connectionsDesc, int(counts.Connections))
	gauge(limitDesc, int(counts.MaxConnections))
}

// synced is 1 when the kernel has all that is wanted, else 0.
func (p *Plane) synced() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready && p.failure == nil && p.taken == p.wanted {
		return 1
	}
	return 0
}

type tableSize struct{ services, frontends, endpoints int }

func sizeOf(frontends []*routing.Frontend) tableSize {
	services := map[types.NamespacedName]bool{}
	sets := map[*routing.Sets]bool{} // the frontends of a port share one
	size := tableSize{frontends: len(frontends)}
	for _, f := range frontends {
		services[f.Service] = true
		if sets[f.Sets] {
			continue
		}
		sets[f.Sets] = true
		size.endpoints += len(f.Cluster)
		for _, b := range f.Local { // hints may leave a local one out of the cluster set
			byAddress := func(a routing.Backend, b netip.AddrPort) int { return a.Compare(b) }
			if _, both := slices.BinarySearchFunc(f.Cluster, b.AddrPort, byAddress); !both {
				size.endpoints++
			}
		}
	}
	size.services = len(services)
	return size
}
