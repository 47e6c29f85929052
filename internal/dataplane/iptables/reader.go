package iptables

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/ti-mo/conntrack"

	"portico.dev/portico/internal/core/routing"
	"portico.dev/portico/internal/dataplane"
	"portico.dev/portico/internal/dataplane/tracked"
)

// Reader reads what the kernel has of ours and changes nothing.
type Reader struct {
	cfg   Config
	flows *conntrack.Conn
}

var _ dataplane.Inspector = (*Reader)(nil)

// OpenReader opens what reads the network namespace that cfg.Enter enters, by the variant
// that has rules of ours at the time. Of cfg, what a Site says is not needed.
func OpenReader(cfg Config) (*Reader, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Enter == nil {
		cfg.Enter = here
	}
	r := &Reader{cfg: cfg}
	err := cfg.Enter(func() (err error) {
		r.flows, err = conntrack.Dial(nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("iptables data plane: open conntrack: %w", err)
	}
	return r, nil
}

// present gives the programs of the variant that has rules of ours, else what a start would
// take.
func (c *Config) present(ctx context.Context) (*programs, error) {
	if c.Variant == "" {
		for _, p := range installed(c.Enter) {
			r := newReading()
			if err := p.read(ctx, false, r); err != nil {
				return nil, err
			}
			if len(r.held) > 0 {
				return p, nil
			}
		}
	}
	return c.programs(ctx)
}

// Close implements dataplane.Inspector.
func (r *Reader) Close() error { return r.flows.Close() }

// Connections implements dataplane.Inspector.
func (r *Reader) Connections(_ context.Context, contents *dataplane.Contents) (map[routing.Key]int, error) {
	return tracked.Connections(r.flows, contents)
}

// Verify implements dataplane.Inspector.
func (r *Reader) Verify(ctx context.Context, site dataplane.Site, state dataplane.State) ([]string, error) {
	cfg := r.cfg
	cfg.WorkloadRanges, cfg.HairpinSources = site.Workloads, site.Own
	programs, err := cfg.present(ctx)
	if err != nil {
		return nil, fmt.Errorf("verify iptables: %w", err)
	}
	b := &Backend{cfg: cfg, log: cfg.Logger, programs: programs}
	return b.Verify(ctx, state)
}
