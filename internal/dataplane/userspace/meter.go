package userspace

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// meter counts for one Service port in one family, or for all.
type meter struct {
	opened, failed, bytes atomic.Uint64 // connections and flows, backends that didn't accept, bytes both ways
}

var (
	openDesc   = prometheus.NewDesc("portico_userspace_connections", "Connections and UDP flows that this process carries now.", []string{"protocol"}, nil)
	openedDesc = prometheus.NewDesc("portico_userspace_connections_total", "Connections and UDP flows that were led to a backend.", nil, nil)
	failedDesc = prometheus.NewDesc("portico_userspace_failed_backends_total", "Times that a backend didn't accept, so that the next one was tried.", nil, nil)
	bytesDesc  = prometheus.NewDesc("portico_userspace_bytes_total", "Bytes that were carried, both ways.", nil, nil)
	socketDesc = prometheus.NewDesc("portico_userspace_unserved_sockets", "Addresses and ports that couldn't be opened: another program has them, or they take a privilege.", nil, nil)

	// By Service, of those that had any; all begin at zero when the Service or the process does.
	serviceOpenedDesc = prometheus.NewDesc("portico_userspace_service_connections_total", "Connections and UDP flows of a Service that were led to a backend.", []string{"namespace", "service"}, nil)
	serviceFailedDesc = prometheus.NewDesc("portico_userspace_service_failed_backends_total", "Times that a backend of a Service didn't accept.", []string{"namespace", "service"}, nil)
	serviceBytesDesc  = prometheus.NewDesc("portico_userspace_service_bytes_total", "Bytes of a Service that were carried, both ways.", []string{"namespace", "service"}, nil)
)

// Describe implements prometheus.Collector.
func (b *Backend) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{openDesc, openedDesc, failedDesc, bytesDesc, socketDesc, serviceOpenedDesc, serviceFailedDesc, serviceBytesDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (b *Backend) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	type sum struct{ opened, failed, bytes uint64 }
	services := map[types.NamespacedName]sum{}
	sessions := 0
	b.mu.Lock()
	for p, t := range b.turns {
		if one := (sum{t.meter.opened.Load(), t.meter.failed.Load(), t.meter.bytes.Load()}); one != (sum{}) {
			all := services[p.service]
			services[p.service] = sum{all.opened + one.opened, all.failed + one.failed, all.bytes + one.bytes}
		}
	}
	for _, of := range b.sessions {
		sessions += len(of)
	}
	b.mu.Unlock()
	gauge(openDesc, sessions, "TCP")
	gauge(openDesc, int(b.flows.Load()), "UDP")
	counter(openedDesc, b.total.opened.Load())
	counter(failedDesc, b.total.failed.Load())
	counter(bytesDesc, b.total.bytes.Load())
	gauge(socketDesc, len(b.Unserved()))
	for name, s := range services {
		counter(serviceOpenedDesc, s.opened, name.Namespace, name.Name)
		counter(serviceFailedDesc, s.failed, name.Namespace, name.Name)
		counter(serviceBytesDesc, s.bytes, name.Namespace, name.Name)
	}
}
