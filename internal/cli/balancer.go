package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"portico.dev/portico/internal/controllers"
	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/leader"
	"portico.dev/portico/internal/controllers/loadbalancers"
	"portico.dev/portico/internal/metallb"
)

const (
	// balancerLease is held by the agent that gives addresses to Services of type
	// LoadBalancer, on an API server which isn't ours. Nothing else is against two
	// Services with one address there: that server knows no claims.
	balancerLease = "portico-loadbalancers"
	// balancerLook is how often is asked whether somebody else does it.
	balancerLook = 30 * time.Second
	// balancerRetry is how often a server that doesn't answer is asked whether it is ours.
	balancerRetry = 2 * time.Second
)

// balancer runs the load balancers' controller in one agent of a cluster whose API server
// has none: it defines MetalLB's kinds and gives addresses of their pools.
type balancer struct {
	o       *options
	kube    kubernetes.Interface
	objects dynamic.Interface
	metrics *loadbalancers.Metrics
	log     *slog.Logger
	said    string // why it stands back
}

// startBalancer contends for the job where the API may be somebody else's.
func (n *nodeRun) startBalancer() error {
	if !n.stranger || n.o.announce == "none" {
		return nil
	}
	objects, err := dynamic.NewForConfig(n.config)
	if err != nil {
		return fmt.Errorf("make the load balancers' client of MetalLB's objects: %w", err)
	}
	n.balancer = &balancer{
		o: n.o, kube: n.kube, objects: objects, metrics: loadbalancers.NewMetrics(), log: n.log.With("part", "loadbalancers"),
	}
	n.start("load balancers", n.balancer.run)
	return nil
}

// run contends until ctx ends. Our own server has no Lease to contend for: it lets nodes
// write none but theirs.
func (b *balancer) run(ctx context.Context) error {
	if b.learnOurs(ctx) || ctx.Err() != nil {
		return nil
	}
	recorder, stop := newRecorder(b.kube, "portico-agent")
	defer stop()
	lease := leader.Config{Leases: b.kube.CoordinationV1(), Identity: b.o.nodeName, Name: balancerLease}
	return controllers.Run(ctx, controllers.Config{Lease: lease, Client: b.kube, Log: b.log}, func(shared *caches.Shared) []controllers.Controller {
		return []controllers.Controller{{Name: "loadbalancers", Run: func(ctx context.Context) error {
			return b.whileNobodyElse(ctx, func(ctx context.Context) error {
				return loadbalancers.Run(ctx, loadbalancers.Deps{
					Client: b.kube, Dynamic: b.objects, Caches: shared, Recorder: recorder, Log: b.log, Metrics: b.metrics,
					Reserved: reservedRanges(b.o), Default: b.o.services,
				})
			})
		}}}
	})
}

var errSomebodyElse = errors.New("somebody else gives the addresses")

// whileNobodyElse runs work as long as nobody else is there whose job it is.
func (b *balancer) whileNobodyElse(ctx context.Context, work func(context.Context) error) error {
	ticker := time.NewTicker(balancerLook)
	defer ticker.Stop()
	for ctx.Err() == nil {
		why, err := b.somebodyElse(ctx)
		switch {
		case err != nil:
			return err
		case why != "":
			if why != b.said {
				b.log.Warn("This cluster's agents give no load-balancer addresses", "because", why)
			}
			b.said = why
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
			continue
		}
		b.said = ""
		if err := b.until(ctx, ticker, work); err != nil {
			return err
		}
	}
	return nil
}

// until runs work until it fails, somebody else is there, or ctx ends.
func (b *balancer) until(ctx context.Context, ticker *time.Ticker, work func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan error, 1)
	go func() { ended <- work(ctx) }()
	for {
		select {
		case err := <-ended:
			if errors.Is(context.Cause(ctx), errSomebodyElse) {
				return nil
			}
			return err
		case <-ticker.C:
			if why, err := b.somebodyElse(ctx); err == nil && why != "" {
				cancel(errSomebodyElse)
			}
		}
	}
}

// somebodyElse says whose job it is to give addresses; "": this cluster's agents'.
func (b *balancer) somebodyElse(ctx context.Context) (why string, err error) {
	ours, err := b.isOurs(ctx)
	if err != nil {
		return "", err
	}
	if ours {
		return "the API is a Portico's, whose own controllers do", nil
	}
	foreign, err := metallb.Foreign(ctx, b.objects)
	if err != nil {
		return "", err
	}
	if foreign != "" {
		return fmt.Sprintf("the definition %s is somebody else's, MetalLB's most likely, whose controller does; where there is none, label the definition %s", foreign, metallb.Mark), nil
	}
	return "", nil
}

// learnOurs asks until the server has answered, or ctx ends.
func (b *balancer) learnOurs(ctx context.Context) bool {
	ticker := time.NewTicker(balancerRetry)
	defer ticker.Stop()
	for said := false; ; said = true {
		ours, err := b.isOurs(ctx)
		if err == nil {
			return ours
		}
		if !said && ctx.Err() == nil {
			b.log.Warn("Whose job it is to give load-balancer addresses isn't known yet", "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-ticker.C:
		}
	}
}

// isOurs tells whether the API server is a Portico: its controllers hold a Lease.
func (b *balancer) isOurs(ctx context.Context) (bool, error) {
	_, err := b.kube.CoordinationV1().Leases(controllers.LeaseNamespace).Get(ctx, controllers.LeaseName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a Portico's controllers (Lease %s/%s): %w", controllers.LeaseNamespace, controllers.LeaseName, err)
	}
	return true, nil
}
