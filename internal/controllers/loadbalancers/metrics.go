package loadbalancers

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"

	core "portico.dev/portico/internal/core/metallb"
)

// Metrics tell of pools and of Services that wait, in the process whose controller runs:
// elsewhere they have no values. They are as old as the pools' status (reportDelay).
type Metrics struct{ tally atomic.Pointer[tally] }

// tally is what was so at a moment.
type tally struct {
	pools map[string]core.IPAddressPoolStatus
	lacks map[lack]int
}

// NewMetrics makes those of one process; hand them to Run and to a registry.
func NewMetrics() *Metrics { return &Metrics{} }

// set takes what is so now; nil: it isn't known here. A nil Metrics takes nothing.
func (m *Metrics) set(t *tally) {
	if m != nil {
		m.tally.Store(t)
	}
}

func countLacks(refused map[types.NamespacedName]lack) map[lack]int {
	out := map[lack]int{}
	for _, l := range refused {
		out[l]++
	}
	return out
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	t := m.tally.Load()
	if t == nil {
		return
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for name, p := range t.pools {
		gauge(descTotal, p.AssignedIPv4+p.AvailableIPv4, name, "ipv4")
		gauge(descTotal, p.AssignedIPv6+p.AvailableIPv6, name, "ipv6")
		gauge(descAssigned, p.AssignedIPv4, name, "ipv4")
		gauge(descAssigned, p.AssignedIPv6, name, "ipv6")
	}
	for l, n := range t.lacks {
		lacks := "address"
		if l.second {
			lacks = "second_family"
		}
		gauge(descPending, int64(n), lacks, string(l.reason))
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descTotal, descAssigned, descPending} {
		out <- d
	}
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("portico_loadbalancer_"+name, help, labels, nil)
}

var (
	descTotal    = desc("pool_addresses", "Addresses that an IPAddressPool can give, with those that it has given.", "pool", "ip_family")
	descAssigned = desc("pool_addresses_assigned", "Addresses of an IPAddressPool that Services have.", "pool", "ip_family")
	descPending  = desc("pending_services", "Services that wait for an address, or for that of the second family that they prefer, by the reason in their condition.", "lacks", "reason")
)
