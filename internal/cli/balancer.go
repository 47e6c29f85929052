package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"

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
	// balancerLook is how often is asked whether somebody else does it. Until then both may
	// give one address to two Services, as no API server but ours refuses that.
	balancerLook = 10 * time.Second
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
	look    time.Duration // balancerLook; tests have less time

	// The goroutine of run alone uses these.
	events record.EventRecorder
	said   string // why it stands back
	blind  bool   // it may not look for MetalLB's controller, which was said
}

// rival is who gives addresses in the agents' place.
type rival struct {
	why string
	on  *corev1.ObjectReference // an object of its own, for an event; nil: it is no stranger
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
		o: n.o, kube: n.kube, objects: objects, metrics: loadbalancers.NewMetrics(), log: n.log.With("part", "loadbalancers"), look: balancerLook,
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
	recorder, stop := newRecorder(b.kube, "portico-agent", scheme.Scheme)
	defer stop()
	b.events = recorder
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
	ticker := time.NewTicker(b.look)
	defer ticker.Stop()
	for ctx.Err() == nil {
		other, err := b.somebodyElse(ctx)
		switch {
		case err != nil:
			return err
		case other != nil:
			b.standBack(other)
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
			continue
		}
		if b.said != "" {
			b.said = ""
			b.log.Info("This cluster's agents give load-balancer addresses again")
		}
		if err := b.until(ctx, ticker, work); err != nil {
			return err
		}
	}
	return nil
}

// standBack says once that somebody else gives the addresses.
func (b *balancer) standBack(other *rival) {
	if b.said == other.why {
		return
	}
	b.said = other.why
	b.log.Warn("This cluster's agents give no load-balancer addresses", "because", other.why)
	if other.on != nil && b.events != nil {
		b.events.Event(other.on, corev1.EventTypeWarning, "PorticoStandsBack", "Portico's agents give no load-balancer addresses: "+other.why)
	}
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
			if other, err := b.somebodyElse(ctx); err == nil && other != nil {
				cancel(errSomebodyElse)
			}
		}
	}
}

// somebodyElse says whose job it is to give addresses; nil: this cluster's agents'.
func (b *balancer) somebodyElse(ctx context.Context) (*rival, error) {
	ours, err := b.isOurs(ctx)
	if err != nil {
		return nil, err
	}
	if ours {
		return &rival{why: "the API is a Portico's, whose own controllers do"}, nil
	}
	foreign, err := metallb.Foreign(ctx, b.objects)
	if err != nil {
		return nil, err
	}
	if foreign != "" {
		return &rival{
			fmt.Sprintf("the definition %s is somebody else's, MetalLB's most likely, whose controller does; where there is none, label the definition %s", foreign, metallb.Mark),
			&corev1.ObjectReference{APIVersion: "apiextensions.k8s.io/v1", Kind: "CustomResourceDefinition", Name: foreign},
		}, nil
	}
	return b.metalLB(ctx)
}

// metalLB looks for MetalLB's controller, which may have come after us and then works on
// our definitions.
func (b *balancer) metalLB(ctx context.Context) (*rival, error) {
	deployment, err := metallb.Rival(ctx, b.objects)
	switch {
	case apierrors.IsForbidden(err):
		if !b.blind {
			b.blind = true
			b.log.Warn("Whether MetalLB's controller runs can't be seen; without it all is well", "error", err)
		}
		return nil, nil
	case err != nil || deployment == nil:
		return nil, err
	}
	namespace, name := deployment.GetNamespace(), deployment.GetName()
	return &rival{
		fmt.Sprintf("MetalLB's controller does (Deployment %s/%s); with `--announce none` agents leave announcing to its speakers as well, and without the Deployment they begin again", namespace, name),
		&corev1.ObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Namespace: namespace, Name: name, UID: deployment.GetUID()},
	}, nil
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
