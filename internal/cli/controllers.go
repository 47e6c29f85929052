package cli

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics/legacyregistry"

	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"portico.dev/portico/internal/apiserver/certs"
	"portico.dev/portico/internal/bootstrap"
	"portico.dev/portico/internal/controllers"
	"portico.dev/portico/internal/controllers/addresses"
	"portico.dev/portico/internal/controllers/caches"
	"portico.dev/portico/internal/controllers/certificates"
	"portico.dev/portico/internal/controllers/clusterroles"
	"portico.dev/portico/internal/controllers/endpoints"
	"portico.dev/portico/internal/controllers/garbage"
	"portico.dev/portico/internal/controllers/joining"
	"portico.dev/portico/internal/controllers/leader"
	"portico.dev/portico/internal/controllers/loadbalancers"
	"portico.dev/portico/internal/controllers/machines"
	"portico.dev/portico/internal/controllers/namesake"
	"portico.dev/portico/internal/controllers/namespaces"
	"portico.dev/portico/internal/controllers/nodes"
	"portico.dev/portico/internal/controllers/problems"
	"portico.dev/portico/internal/controllers/quota"
	"portico.dev/portico/internal/controllers/rootca"
	"portico.dev/portico/internal/controllers/scheduling"
	"portico.dev/portico/internal/controllers/serviceaccounts"
	"portico.dev/portico/internal/controllers/system"
	"portico.dev/portico/internal/core/pools"
	"portico.dev/portico/internal/kubevirt"
)

// runControllers runs every controller while this process holds their Lease. claims are
// those of the API server's store, held is what it holds in memory, authority signs
// nodes' certificates.
func runControllers(ctx context.Context, config *rest.Config, claims addresses.Claims, held caches.Held, authority *certs.Authority, o *options, log *slog.Logger) error {
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the controllers' client: %w", err)
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the controllers' client: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make the controllers' client: %w", err)
	}
	vms, err := kubevirt.NewForConfig(config, nil)
	if err != nil {
		return err
	}
	recorder, stop := newRecorder(kube, "portico-controllers")
	defer stop()
	// The API server serves the library's registry.
	balancers, registry := loadbalancers.NewMetrics(), legacyregistry.Registerer()
	if err := registry.Register(balancers); err != nil {
		return fmt.Errorf("register the load balancers' metrics: %w", err)
	}
	defer registry.Unregister(balancers)
	list := func(shared *caches.Shared) []controllers.Controller {
		return []controllers.Controller{
			{Name: "system", Run: func(ctx context.Context) error { return system.Run(ctx, kube, log) }},
			{Name: "endpoints", Run: func(ctx context.Context) error {
				return endpoints.Run(ctx, endpoints.Deps{Client: kube, Caches: shared, Recorder: recorder, Log: log})
			}},
			{Name: "problems", Run: func(ctx context.Context) error {
				return problems.Run(ctx, problems.Deps{Client: kube, Caches: shared, Recorder: recorder, Log: log})
			}},
			{Name: "garbage", Run: func(ctx context.Context) error {
				return garbage.Run(ctx, garbage.Deps{Metadata: meta, Discovery: kube.Discovery(), Log: log})
			}},
			{Name: "machines", Run: func(ctx context.Context) error {
				return machines.Run(ctx, machines.Deps{Client: kube, Caches: shared, Machines: vms, Recorder: recorder, Log: log})
			}},
			{Name: "scheduling", Run: func(ctx context.Context) error {
				return scheduling.Run(ctx, scheduling.Deps{Client: kube, Caches: shared, Recorder: recorder, Log: log})
			}},
			{Name: "nodes", Run: func(ctx context.Context) error {
				return nodes.Run(ctx, nodes.Deps{Client: kube, Caches: shared, Recorder: recorder, Log: log, Ranges: o.cluster})
			}},
			{Name: "serviceaccounts", Run: func(ctx context.Context) error {
				return serviceaccounts.Run(ctx, namesake.Deps{Client: kube, Caches: shared, Log: log})
			}},
			{Name: "addresses", Run: func(ctx context.Context) error {
				return addresses.Run(ctx, addresses.Deps{
					Client: kube, Caches: shared, Machines: vms, Claims: claims, Recorder: recorder, Log: log,
					Default: o.services, NodePortFirst: o.firstPort, NodePortLast: o.lastPort,
				})
			}},
			{Name: "loadbalancers", Run: func(ctx context.Context) error {
				return loadbalancers.Run(ctx, loadbalancers.Deps{
					Client: kube, Dynamic: dyn, Caches: shared, Recorder: recorder, Log: log, Metrics: balancers,
					Reserved: reservedRanges(o), Default: o.services,
				})
			}},
			{Name: "quota", Run: func(ctx context.Context) error {
				return quota.Run(ctx, quota.Deps{Client: kube, Caches: shared, Metadata: meta, Discovery: kube.Discovery(), Log: log})
			}},
			{Name: "rootca", Run: func(ctx context.Context) error {
				return rootca.Run(ctx, namesake.Deps{Client: kube, Caches: shared, Log: log}, authority.PEM())
			}},
			{Name: "certificates", Run: func(ctx context.Context) error {
				return certificates.Run(ctx, certificates.Deps{
					Client: kube, Caches: shared, Signer: authority, Log: log, Reserved: servingNames(o),
					Domain: o.clusterDomain, Ranges: slices.Concat(o.services, o.cluster, o.guests),
				})
			}},
			{Name: "joining", Run: func(ctx context.Context) error {
				return joining.Run(ctx, joining.Deps{Client: kube, Log: log, Settings: bootstrap.Settings{
					ServiceCIDR: o.serviceCIDR, ClusterCIDR: o.clusterCIDR, GuestCIDR: o.guestCIDR, ClusterDomain: o.clusterDomain,
				}})
			}},
			{Name: "clusterroles", Run: func(ctx context.Context) error {
				return clusterroles.Run(ctx, clusterroles.Deps{Client: kube, Caches: shared, Log: log})
			}},
			{Name: "namespaces", Run: func(ctx context.Context) error {
				return namespaces.Run(ctx, namespaces.Deps{Client: kube, Caches: shared, Metadata: meta, Discovery: kube.Discovery(), Log: log})
			}},
		}
	}
	lease := leader.Config{Leases: kube.CoordinationV1(), Identity: o.nodeName}
	return controllers.Run(ctx, controllers.Config{Lease: lease, Client: kube, Held: held, Log: log}, list)
}

// reservedRanges are the cluster's own, which no load balancer gets addresses of; beside
// them there are ServiceCIDRs and nodes.
func reservedRanges(o *options) []pools.Reserved {
	var out []pools.Reserved
	add := func(prefixes []netip.Prefix, what string) {
		for _, prefix := range prefixes {
			out = append(out, pools.Reserved{Prefix: prefix, What: what})
		}
	}
	add(o.cluster, "the addresses of pods (--cluster-cidr)")
	add(o.guests, "the addresses of virtual machines (--guest-cidr)")
	return out
}

// newRecorder writes Events in the name of component; stop ends it.
func newRecorder(kube kubernetes.Interface, component string) (_ record.EventRecorder, stop func()) {
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	return broadcaster.NewRecorder(kubevirt.Scheme, corev1.EventSource{Component: component}), broadcaster.Shutdown
}
