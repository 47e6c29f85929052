package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/pflag"

	"portico.dev/portico/internal/dataplane"
)

// metricsFlags says where the node side serves its metrics. The port is kube-proxy's.
func (o *options) metricsFlags(f *pflag.FlagSet) {
	f.StringVar(&o.metrics, "metrics-address", "127.0.0.1:10249", "`address` with a port where the node's metrics are served to anybody; empty for nowhere")
}

// checkMetrics finds, before anything is changed, that the address can't be had.
func (o *options) checkMetrics() error {
	l, err := o.listenMetrics()
	if l == nil {
		return err
	}
	return l.Close()
}

// listenMetrics gives nil where no metrics are wanted.
func (o *options) listenMetrics() (net.Listener, error) {
	if o.metrics == "" {
		return nil, nil
	}
	if _, err := netip.ParseAddrPort(o.metrics); err != nil {
		return nil, fmt.Errorf("--metrics-address %q is not an address with a port; write it like 127.0.0.1:10249, or leave it empty for no metrics", o.metrics)
	}
	return listenTCP("--metrics-address", o.metrics)
}

// Times of the metrics server: a scrape takes some milliseconds, and Prometheus itself
// waits 10 s at most.
const (
	metricsHeaderTime = 5 * time.Second
	metricsTime       = 10 * time.Second
	metricsAtOnce     = 4
)

// startMetrics serves this process's and the data plane's metrics.
func (n *nodeRun) startMetrics() error {
	l, err := n.o.listenMetrics()
	if l == nil {
		return err
	}
	registry := newRegistry()
	if n.names != nil {
		registry.MustRegister(n.names.Collector())
	}
	if n.userspace != nil {
		registry.MustRegister(n.userspace)
	}
	closeCounts := func() error { return nil }
	if n.plane != nil {
		var counts func() (dataplane.Counts, error)
		if n.technique.counts != nil {
			if counts, closeCounts, err = n.technique.counts(); err != nil {
				return errors.Join(err, l.Close())
			}
		}
		registry.MustRegister(n.plane.Collector(counts))
	}
	if n.layer2 != nil {
		registry.MustRegister(n.layer2, n.bgp)
	}
	if n.balancer != nil {
		registry.MustRegister(n.balancer.metrics)
	}
	n.start("metrics", func(ctx context.Context) error {
		defer closeCounts() //nolint:errcheck // only sockets are closed
		return serveMetrics(ctx, l, registry, n.log)
	})
	return nil
}

// newRegistry has the metrics of the process itself.
func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// serveMetrics serves /metrics until ctx ends.
func serveMetrics(ctx context.Context, l net.Listener, registry *prometheus.Registry, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: metricsAtOnce, Timeout: metricsTime, EnableOpenMetrics: true,
	}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: metricsHeaderTime, WriteTimeout: 2 * metricsTime, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
		err := server.Close() // nobody waits for a scrape to end
		<-served
		return err
	}
}
